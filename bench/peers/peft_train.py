#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One training setting of Hugging Face PEFT, timed: forward, backward and AdamW step on a right-padded batch.

Prints one JSON line. Tokens per second count real tokens, not padding. The peak memory is the high-water mark of the
resident set from just before the first step (weights included, loading excluded). Run each setting in its own process.
"""
import argparse
import json
import os
import statistics
import time

import peft
import torch
import transformers
from transformers import AutoModelForCausalLM

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def high_water_mark():
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def reset_high_water_mark():
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def right_padded(rows):
    longest = max(len(row["tokens"]) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for i, row in enumerate(rows):
        tokens = torch.tensor(row["tokens"])
        ids[i, : len(tokens)] = tokens
        mask[i, : len(tokens)] = 1
        labels[i, row["prompt"] : len(tokens)] = tokens[row["prompt"] :]
    return ids, mask, labels


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder made by prepare_model.py")
    parser.add_argument("--rows", required=True, help='{"rows": [{"tokens": [...], "prompt": n, "task": i}]}')
    parser.add_argument("--method", choices=("lora", "poly"), default="lora")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--adapter-dtype", choices=("float32", "same"), default="float32",
                        help="PEFT keeps adapters in float32 over a bfloat16 base unless told otherwise")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--skills", type=int, default=4, help="of poly")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    with open(options.rows, encoding="utf-8") as file:
        rows = json.load(file)["rows"]
    tasks = torch.tensor([row["task"] for row in rows])
    common = dict(r=options.rank, target_modules=LINEARS, task_type="CAUSAL_LM")
    if options.method == "lora":
        config = peft.LoraConfig(lora_alpha=2 * options.rank, lora_dropout=0.0, **common)
    else:
        config = peft.PolyConfig(n_tasks=int(tasks.max()) + 1, n_skills=options.skills, n_splits=1, **common)
    model = AutoModelForCausalLM.from_pretrained(
        os.path.join(options.model, options.dtype), dtype=getattr(torch, options.dtype))
    model = peft.get_peft_model(model, config, autocast_adapter_dtype=options.adapter_dtype == "float32")
    model.config.use_cache = False
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-4)
    ids, mask, labels = right_padded(rows)
    extra = {"task_ids": tasks} if options.method == "poly" else {}

    reset_high_water_mark()
    seconds, losses = [], []
    for step in range(options.warmup + options.steps):
        start = time.perf_counter()
        loss = model(input_ids=ids, attention_mask=mask, labels=labels, **extra).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if step >= options.warmup:
            seconds.append(time.perf_counter() - start)
        losses.append(loss.item())
    tokens = sum(len(row["tokens"]) for row in rows)
    print(json.dumps({
        "name": f"peft-{options.method}",
        "dtype": options.dtype + ("" if options.adapter_dtype == "float32" else "-pure"),
        "threads": options.threads,
        "rows": len(rows),
        "tokens": tokens,
        "padded_tokens": ids.numel(),
        "trainable": sum(p.numel() for p in trained),
        "seconds": seconds,
        "tokens_per_second": tokens / statistics.median(seconds),
        "peak_rss": high_water_mark(),
        "loss_first": losses[0],
        "loss_last": losses[-1],
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__},
    }))


if __name__ == "__main__":
    main()
