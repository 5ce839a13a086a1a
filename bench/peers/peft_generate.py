#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Hugging Face PEFT answering a batch of equal prompts, timed: the base alone, one adapter, or one adapter per row.

Prints one JSON line in the form of generate_bench; prompt and decoding are one time here. The mixed batch is PEFT's own
way, `adapter_names`. Run each setting in its own process.
"""
import argparse
import json
import os
import time

import peft
import torch
import transformers
from transformers import AutoModelForCausalLM

from peft_train import LINEARS, high_water_mark, reset_high_water_mark


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder made by prepare_model.py")
    parser.add_argument("--rows", required=True, help='{"rows": [{"tokens": [...]}]}')
    parser.add_argument("--skills", choices=("none", "one", "mixed"), default="mixed")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--answer", type=int, default=31, help="tokens decoded after the prompt's own")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    with open(options.rows, encoding="utf-8") as file:
        tokens = [token for row in json.load(file)["rows"] for token in row["tokens"]]
    ids = torch.tensor([tokens[i % len(tokens)] for i in range(options.count * options.prompt)])
    ids = ids.view(options.count, options.prompt)
    model = AutoModelForCausalLM.from_pretrained(
        os.path.join(options.model, options.dtype), dtype=getattr(torch, options.dtype))
    extra = {}
    if options.skills != "none":
        config = peft.LoraConfig(r=options.rank, lora_alpha=2 * options.rank, target_modules=LINEARS,
                                 task_type="CAUSAL_LM", init_lora_weights=False)
        names = [f"task{i}" for i in range(options.count if options.skills == "mixed" else 1)]
        # The faster of PEFT's two ways: adapters in the base's own dtype.
        model = peft.get_peft_model(model, config, adapter_name=names[0], autocast_adapter_dtype=False)
        for name in names[1:]:
            model.add_adapter(name, config, autocast_adapter_dtype=False)
        model.to(getattr(torch, options.dtype))
        if options.skills == "mixed":
            extra["adapter_names"] = names
    model.eval()
    reset_high_water_mark()
    seconds = []
    with torch.inference_mode():
        for repeat in range(options.repeats + 1):  # the first one warms up
            start = time.perf_counter()
            out = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, use_cache=True,
                min_new_tokens=options.answer + 1, max_new_tokens=options.answer + 1, pad_token_id=0, **extra)
            if repeat:
                seconds.append(time.perf_counter() - start)
    if out.shape[1] != options.prompt + options.answer + 1:
        raise SystemExit(f"generated {out.shape[1] - options.prompt} tokens")
    print(json.dumps({
        "name": "peft", "skills": options.skills, "dtype": options.dtype, "rows": options.count,
        "prompt": options.prompt, "answer": options.answer, "threads": options.threads, "seconds": seconds,
        "peak_rss": high_water_mark(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__},
    }))


if __name__ == "__main__":
    main()
