#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Training and decoding on a CUDA GPU beside Hugging Face PEFT and transformers, in one run: cuda.py --polyad BUILD.

Makes models of given shapes with random bfloat16 weights (no download), rows of random tokens, runs the peers in their
best dtype and build/bench/device_bench on the same folder and rows, and prints a table. JSON lines go to --out.
"""
import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

BARS = {"train": 3.0, "decode": 1.5}  # times the peer's best
MIXED_BAR = 0.9  # a batch of eight tasks over our own base
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SHAPES = {  # SmolLM2-135M, and a model of the shape of Llama 3.2 1B
    "135m": dict(hidden_size=576, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
                 intermediate_size=1536, vocab_size=49152, tie_word_embeddings=True, max_position_embeddings=8192),
    "1b": dict(hidden_size=2048, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8,
               intermediate_size=8192, vocab_size=128256, tie_word_embeddings=True, max_position_embeddings=8192),
}


def make_model(folder, shape):
    if not (folder / "config.json").exists():
        torch.manual_seed(0)
        config = LlamaConfig(**SHAPES[shape], rms_norm_eps=1e-5, dtype="bfloat16", head_dim=64)
        with torch.device("cuda"):
            model = LlamaForCausalLM(config).to(torch.bfloat16)
        model.generation_config.eos_token_id = None
        model.save_pretrained(folder)
        del model
        torch.cuda.empty_cache()
    return folder


def make_rows(file, rows, mean, vocab):
    generator = random.Random(7)
    out = []
    for i in range(rows):
        length = mean // 2 + mean * i // max(1, rows - 1)
        tokens = [generator.randrange(vocab) for _ in range(length)]
        out.append({"tokens": tokens, "prompt": length - max(2, length // 8), "task": i % 8})
    file.write_text(json.dumps({"rows": out}))
    return out


def peft_train(folder, rows, method, pure, steps, warmup):
    import peft
    from peft_train import right_padded
    tasks = torch.tensor([row["task"] for row in rows]).cuda()
    common = dict(r=8, target_modules=LINEARS, task_type="CAUSAL_LM")
    config = (peft.LoraConfig(lora_alpha=16, lora_dropout=0.0, **common) if method == "lora" else
              peft.PolyConfig(n_tasks=8, n_skills=4, n_splits=1, **common))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, device_map="cuda")
    model = peft.get_peft_model(model, config, autocast_adapter_dtype=not pure)
    model.config.use_cache = False
    model.train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    ids, mask, labels = (tensor.cuda() for tensor in right_padded(rows))
    extra = {"task_ids": tasks} if method == "poly" else {}
    seconds = []
    for step in range(warmup + steps):
        torch.cuda.synchronize()
        start = time.perf_counter()
        loss = model(input_ids=ids, attention_mask=mask, labels=labels, **extra).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        loss.item()
        torch.cuda.synchronize()
        if step >= warmup:
            seconds.append(time.perf_counter() - start)
    tokens = sum(len(row["tokens"]) for row in rows)
    middle = statistics.median(seconds)
    return {"what": "train", "method": method, "setting": "bf16 adapters" if pure else "fp32 adapters",
            "tokens": tokens, "seconds": middle, "tokens_per_second": tokens / middle}


def peft_decode(folder, setting, rows, prompt, new_tokens):
    import peft
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, device_map="cuda")
    if not setting.startswith("base"):
        config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=LINEARS, task_type="CAUSAL_LM",
                                 init_lora_weights=False)
        model = peft.get_peft_model(model, config, adapter_name="a0", autocast_adapter_dtype=False)
        if setting.startswith("mixed"):
            for i in range(1, rows):
                model.add_adapter(f"a{i}", config, autocast_adapter_dtype=False)
        model.set_adapter("a0")
    model.eval()
    generator = random.Random(3)
    ids = torch.tensor([[generator.randrange(model.config.vocab_size) for _ in range(prompt)]
                        for _ in range(rows)]).cuda()
    arguments = dict(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False,
                     min_new_tokens=new_tokens, max_new_tokens=new_tokens, pad_token_id=0)
    if setting.startswith("mixed"):
        arguments["adapter_names"] = [f"a{i}" for i in range(rows)]
    seconds = []
    with torch.no_grad():
        model.generate(**{**arguments, "min_new_tokens": 8, "max_new_tokens": 8})
        for _ in range(1 if setting.startswith("mixed") else 2):  # a mixed batch takes PEFT most of a minute
            torch.cuda.synchronize()
            start = time.perf_counter()
            model.generate(**arguments)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    middle = statistics.median(seconds)
    return {"what": "decode", "setting": setting, "rows": rows, "prompt": prompt, "new_tokens": new_tokens,
            "seconds": middle, "tokens_per_second": rows * new_tokens / middle}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--polyad", required=True, help="build folder")
    parser.add_argument("--out", default="bench/out")
    parser.add_argument("--work", default=os.path.join(tempfile.gettempdir(), "polyad-cuda-bench"), help="where models and rows are made")
    parser.add_argument("--shapes", default="135m,1b")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    work, out = pathlib.Path(options.work), pathlib.Path(options.out)
    work.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    lines = []

    def add(who, shape, load, line):
        line = {"who": who, "model": shape, "load": load, **line}
        lines.append(line)
        name = line.get("method", line.get("setting", ""))
        print(f"{who:7} {shape:5} {load:10} {line['what']:7} {name:12} "
              + (f"{line['tokens_per_second']:10.0f} tokens/s {1e3 * line['seconds']:9.2f} ms  "
                 + str(line.get("setting", "")) + (f" {line['of_gemm_bound']:.2f} of GEMMs" if "of_gemm_bound" in line else "")
                 + (f" {line['milliseconds_per_step']:.2f} ms/step, {line['graph_steps']:.2f} of them from graphs"
                    if "milliseconds_per_step" in line else "")
                 if "seconds" in line else str(line)), flush=True)
        with open(out / "cuda_bench.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def attempt(who, shape, load, run):
        try:
            add(who, shape, load, run())
        except Exception as error:  # one setting that fails must not hide the others
            add(who, shape, load, {"what": "error", "setting": repr(error)[:300]})
        torch.cuda.empty_cache()

    def ours(shape, load, folder, rows, *arguments):
        command = [os.path.join(options.polyad, "bench", "device_bench"), "--model", str(folder), "--device", "cuda",
                   "--rows", str(rows), "--steps", str(options.steps), *arguments]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
        for line in done.stdout.splitlines():
            add("polyad", shape, load, json.loads(line))
        if done.returncode:
            print(done.stderr[-2000:], file=sys.stderr)
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            add("polyad", shape, load, {"what": "error", "setting": f"device_bench ended with {done.returncode}: {reason}"[:300]})

    for shape in options.shapes.split(","):
        folder = make_model(work / shape, shape)
        loads = {"8x103": (8, 103), "32x512": (32, 512)} if shape == "135m" else {"16x512": (16, 512)}
        for load, (count, mean) in loads.items():
            file = work / f"rows-{shape}-{load}.json"
            rows = make_rows(file, count, mean, SHAPES[shape]["vocab_size"])
            ours(shape, load, folder, file, "--train", "lora,poly")
            if options.no_peers:
                continue
            for method, pure in (("lora", True), ("lora", False), ("poly", True)):
                attempt("peft", shape, load, lambda: peft_train(folder, rows, method, pure, options.steps, 3))
        tokens = str(options.new_tokens)
        ours(shape, "decode", folder, file, "--decode", "base1,one1,base,one,mixed", "--tokens", tokens)
        if options.no_peers:
            continue
        for setting, count in (("base1", 1), ("one1", 1), ("base", 8), ("one", 8), ("mixed", 8)):
            attempt("peft", shape, "decode", lambda: peft_decode(folder, setting, count, 64, options.new_tokens))

    def speed(who, model, load, what, name):
        found = [l["tokens_per_second"] for l in lines
                 if (l["who"], l["model"], l["load"], l["what"]) == (who, model, load, what)
                 and name in (l.get("method"), l.get("setting"))]
        return max(found) if found else float("nan")

    def verdict(ratio, bar):
        return f"{ratio:6.2f}  {'met' if ratio >= bar else 'missed'}: at least {bar}"

    print("\nratios (ours / the peer's best)")
    for model, load in sorted({(l["model"], l["load"]) for l in lines}):
        for what, names in (("train", ("lora", "poly")), ("decode", ("base1", "one1", "base", "one", "mixed"))):
            for name in names:
                a, b = (speed(who, model, load, what, name) for who in ("polyad", "peft"))
                if a == a and b == b:
                    print(f"{model:5} {load:10} {what:7} {name:8} {verdict(a / b, BARS[what])}")
        base, mixed = (speed("polyad", model, load, "decode", name) for name in ("base", "mixed"))
        if mixed == mixed:
            print(f"{model:5} {load:10} mixed batch / our base {verdict(mixed / base, MIXED_BAR)}")
    failed = [l["setting"] for l in lines if l["what"] == "error" and l["who"] == "polyad"]
    print(f"{len(lines)} settings" + (f", FAILED: {len(failed)} runs of device_bench" if failed else ""))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
