#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""llama.cpp on one row, timed by its own clock (llama_perf_context): the prompt in one batch, then one token a step.

Prints one JSON line in the form of generate_bench. llama.cpp's figures hold llama_decode alone; the greedy choice
between two steps is outside them.
"""
import argparse
import ctypes
import importlib.metadata
import json
import os

import llama_cpp


def prompt_of(path, length):
    with open(path, encoding="utf-8") as file:
        tokens = [token for row in json.load(file)["rows"] for token in row["tokens"]]
    return [tokens[i % len(tokens)] for i in range(length)]


def largest(context, vocab):
    logits = llama_cpp.llama_get_logits_ith(context, -1)
    values = ctypes.cast(logits, ctypes.POINTER(ctypes.c_float * vocab)).contents
    return max(range(vocab), key=values.__getitem__)


def decode(context, tokens):
    array = (llama_cpp.llama_token * len(tokens))(*tokens)
    status = llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(tokens)))
    if status != 0:
        raise SystemExit(f"llama_decode: {status}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", required=True, help='{"rows": [{"tokens": [...]}]}')
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--answer", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()

    llama_cpp.llama_backend_init()
    silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    model = llama_cpp.llama_model_load_from_file(options.model.encode(), llama_cpp.llama_model_default_params())
    if not model:
        raise SystemExit(f"llama.cpp cannot read {options.model}")
    vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = options.prompt + options.answer + 1
    settings.n_batch = settings.n_ubatch = options.prompt
    settings.n_threads = settings.n_threads_batch = options.threads
    settings.no_perf = False
    context = llama_cpp.llama_init_from_model(model, settings)
    memory = llama_cpp.llama_get_memory(context)
    prompt = prompt_of(options.rows, options.prompt)
    prompt_seconds, decode_seconds = [], []
    for repeat in range(options.repeats + 1):  # the first one warms up
        llama_cpp.llama_memory_clear(memory, True)
        llama_cpp.llama_perf_context_reset(context)
        decode(context, prompt)
        tokens = [largest(context, vocab)]
        for _ in range(options.answer):
            decode(context, tokens[-1:])
            tokens.append(largest(context, vocab))
        timings = llama_cpp.llama_perf_context(context)
        if timings.n_p_eval != options.prompt or timings.n_eval != options.answer:
            raise SystemExit(f"llama.cpp counts {timings.n_p_eval} and {timings.n_eval} tokens")
        if repeat:
            prompt_seconds.append(timings.t_p_eval_ms / 1e3)
            decode_seconds.append(timings.t_eval_ms / 1e3)
    with open("/proc/self/status", encoding="ascii") as status:
        peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    print(json.dumps({
        "name": "llama.cpp", "skills": "none", "dtype": "as packed", "rows": 1, "prompt": options.prompt,
        "answer": options.answer, "threads": options.threads, "prompt_seconds": prompt_seconds,
        "decode_seconds": decode_seconds, "peak_rss": peak, "tokens": tokens,
        "versions": {"llama-cpp-python": importlib.metadata.version("llama-cpp-python"),
                     "system": llama_cpp.llama_print_system_info().decode()},
    }))


if __name__ == "__main__":
    main()
