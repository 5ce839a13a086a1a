#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a step costs as one thing grows and all else stays: scaling.py BIN_FOLDER MODEL OUT.json.

Training steps and decoding steps of SmolLM2-135M. Each line gives the seconds of a step, and the seconds per unit of
what should be proportional to it, relative to the first: 1.00 all the way is linear, below it is better.
"""
import argparse
import json
import os
import random
import statistics
import subprocess
import tempfile


def rows_file(folder, count, length, tasks=1):
    """`count` rows of `length` random tokens, the last eighth the answer."""
    draw = random.Random(7)
    rows = [{"tokens": [draw.randrange(100, 40000) for _ in range(length)], "prompt": length - max(1, length // 8),
             "task": i % tasks} for i in range(count)]
    path = os.path.join(folder, f"rows-{count}-{length}-{tasks}.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"rows": rows}, file)
    return path


def output_of(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bin")
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--tasks", help="a folder of tasks to draw batches from")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, default=2)
    options = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="polyad-scaling-")
    common = ["--model", options.model, "--threads", str(options.threads)]

    def train(method, count, length, tasks=1, **config):
        result = output_of([f"{options.bin}/train_bench", *common, "--rows", rows_file(folder, count, length, tasks),
                            "--method", method, "--config", json.dumps(config), "--steps", str(options.steps)])
        return statistics.median(result["seconds"])

    def decode(skills, count, prompt, **config):
        rank = config.pop("rank", 8)
        result = output_of([f"{options.bin}/generate_bench", *common, "--rows", rows_file(folder, 8, 256),
                            "--skills", skills, "--count", str(count), "--prompt", str(prompt), "--answer", "16",
                            "--rank", str(rank), "--config", json.dumps(config), "--repeats", str(options.steps)])
        return statistics.median(result["decode_seconds"]) / 16

    # (what, values, seconds of one value, units a value stands for, what one expects)
    sheet = [
        ("training, LoRA: rows of 100 tokens", (1, 2, 4, 8, 16), lambda n: train("lora", n, 100), lambda n: n,
         "per row, falling until the GEMMs are full"),
        ("training, LoRA: tokens of one row", (64, 128, 256, 512, 1024), lambda n: train("lora", 1, n), lambda n: n,
         "per token, rising slowly: attention is quadratic"),
        ("training, LoRA: rank", (4, 8, 16, 32, 64), lambda r: train("lora", 8, 100, rank=r), lambda r: 1,
         "per step, rising with the update's share"),
        ("training, Poly: tasks among 16 rows", (1, 4, 16), lambda t: train("poly", 16, 50, t), lambda t: 1,
         "per step, rising with the mixtures to make"),
        ("training, Poly: skills", (2, 4, 8, 16), lambda s: train("poly", 8, 100, 8, n_skills=s), lambda s: 1,
         "per step, rising with the factors to mix and to train"),
        ("decoding, Poly: rows, a task each", (1, 2, 4, 8, 16), lambda n: decode("poly", n, 64), lambda n: n,
         "per row, falling: the weights are read once for all"),
        ("decoding, Poly: tokens of the past", (64, 256, 1024, 2048), lambda n: decode("poly", 1, n), lambda n: 1,
         "per step, rising slowly with the keys to read"),
        ("decoding, LoRA: rank", (4, 8, 16, 32, 64), lambda r: decode("lora", 1, 64, rank=r), lambda r: 1,
         "per step, rising with the factors to read"),
    ]
    out = []
    for what, values, seconds, units, expected in sheet:
        print(f"{what} ({expected})")
        first = None
        for value in values:
            cost = seconds(value)
            per_unit = cost / units(value)
            first = first or per_unit
            out.append({"what": what, "value": value, "seconds": cost, "relative": per_unit / first})
            print(f"  {value:>6}  {1e3 * cost:>9.2f} ms  {per_unit / first:>6.2f}")
    if options.tasks:
        print("shared beginnings: batches of LoRA as a trainer draws them, each beginning computed once and with every row whole")
        for few in (False, True):
            for count in (8, 32):
                for seed in (1, 2):
                    rows = os.path.join(folder, "drawn.json")
                    command = [f"{options.bin}/train_bench", "--model", options.model, "--tasks", options.tasks, "--drawn", str(seed),
                               "--count", str(count), "--write-rows", rows] + (["--draw-tasks", "4"] if few else [])
                    subprocess.run(command, check=True)
                    train_rows = [f"{options.bin}/train_bench", *common, "--rows", rows, "--method", "lora", "--steps", str(options.steps)]
                    shared, whole = output_of(train_rows), output_of(train_rows + ["--no-share"])
                    gain = statistics.median(whole["seconds"]) / statistics.median(shared["seconds"])
                    out.append({"what": "shared beginnings", "rows": count, "seed": seed, "tasks": 4 if few else 0, "gain": gain,
                                "tokens": whole["computed_tokens"], "computed_tokens": shared["computed_tokens"]})
                    print(f"  {count:>3} rows of {'4 tasks' if few else 'all tasks'}: {shared['computed_tokens']:>6} of {whole['computed_tokens']:>6} "
                          f"tokens computed, {gain:>5.2f} times as fast")
    with open(options.out, "w", encoding="utf-8") as file:
        json.dump(out, file, indent=1)


if __name__ == "__main__":
    main()
