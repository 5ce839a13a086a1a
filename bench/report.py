#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns the JSON lines of a benchmark into tables and one JSON file: report.py FILE.jsonl [OUT.json].

Medians over rounds and repeats, with the smallest and the largest beside them. The last table holds what the project
measures itself by: each figure against its bar.
"""
import collections
import json
import os
import platform
import statistics
import subprocess
import sys


def machine():
    model, flags = platform.processor(), []
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
            elif key.strip() == "flags" and not flags:
                flags = [f for f in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16") if f in value.split()]
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return {"cpu": model, "cores": os.cpu_count(), "instructions": flags,
            "system": f"{platform.system()} {platform.release()}", "load": round(os.getloadavg()[0], 2),
            "commit": commit.stdout.strip() or "unknown"}


class Figure:
    """Values of one setting over rounds and repeats."""

    def __init__(self, values):
        self.values = sorted(values)
        self.median = statistics.median(values)

    def __str__(self):
        return f"{self.median:>9.1f}{self.values[0]:>9.1f}{self.values[-1]:>9.1f}"


def head(title, *columns):
    print(f"\n{title}\n{'':<34}{'median':>9}{'min':>9}{'max':>9}" + "".join(f"{c:>12}" for c in columns))


def train_table(results, bars):
    groups = collections.defaultdict(list)
    for result in results:
        groups[result["name"], result["dtype"]].append(result)
    speed, memory, bound, own = {}, {}, {}, {}
    any_result = results[0]
    head(f"training step: {any_result['rows']} ragged rows, {any_result['tokens']} tokens; tokens/s", "peak GiB",
         "of GEMMs", "of ours", "computed")
    # GEMMs of whole rows by LibTorch, and by our own kernels; computed: tokens that go through the layers, where
    # what rows begin with alike counts once
    for key, runs in groups.items():
        speed[key] = Figure([r["tokens"] / s for r in runs for s in r["seconds"]])
        memory[key] = statistics.median(r["peak_rss"] for r in runs)
        bound[key], own[key] = (statistics.median(r.get(what, 0) / s for r in runs for s in r["seconds"])
                                for what in ("gemm_bound_seconds", "own_gemm_seconds"))
        print(f"{' '.join(key):<34}{speed[key]}{memory[key] / 2**30:>12.2f}"
              + (f"{bound[key]:>12.2f}{own[key]:>12.2f}{runs[0]['computed_tokens']:>12}" if bound[key] else ""))
    best = {}
    for method in sorted({name.split("-", 1)[1] for name, _ in groups}):
        ours = [k for k in groups if k[0] == f"polyad-{method}"]
        peer = [k for k in groups if k[0] == f"peft-{method}"]
        if ours:
            best[method] = max(ours, key=lambda k: speed[k].median)
        if ours and peer:
            fastest, smallest = max(peer, key=lambda k: speed[k].median), min(peer, key=memory.get)
            bars.append((f"training, {method}: tokens/s of PEFT's best ({fastest[1]})",
                         speed[best[method]].median / speed[fastest].median, ">=", 4.0))
            bars.append((f"training, {method}: peak memory of PEFT's smallest ({smallest[1]})",
                         memory[best[method]] / memory[smallest], "<=", 0.25))
    if "lora" in best:
        bars.append(("training, lora: of the frozen GEMMs' speed, LibTorch's", bound[best["lora"]], ">=", 0.7))
        bars.append(("training, lora: of the frozen GEMMs' speed, our own", own[best["lora"]], ">=", 0.7))
        for method, ratios in sorted(steps_of_lora(results, best["lora"][1]).items()):
            bars.append((f"training, {method}: step time of lora's", statistics.median(ratios), "<=",
                         1.6 if method in TOKEN_ROUTED else 1.3))


def steps_of_lora(results, dtype):
    """Each run of another method beside the run of plain LoRA before it: a machine that slows down slows both."""
    ratios, lora = collections.defaultdict(list), None
    for result in results:
        name, step = result["name"], statistics.median(result["seconds"])
        if result["dtype"] != dtype or not name.startswith("polyad-"):
            continue
        if name == "polyad-lora":
            lora = step
        elif lora:
            ratios[name.split("-", 1)[1]].append(step / lora)
    return ratios


TOKEN_ROUTED = ("molora", "mixlora", "xlora", "mor1e", "pemt")


def one_row_table(results, bars):
    groups = collections.defaultdict(list)
    for result in results:
        name = result["name"] + ("" if result["name"] == "llama.cpp" else f" {result['dtype']}, {result['skills']}")
        groups[name].append(result)
    shape = results[0]
    read = {k: Figure([r["prompt"] / s for r in runs for s in r["prompt_seconds"]]) for k, runs in groups.items()}
    told = {k: Figure([r["answer"] / s for r in runs for s in r["decode_seconds"]]) for k, runs in groups.items()}
    for title, figures in ((f"one row, prompt of {shape['prompt']} tokens; tokens/s", read),
                           (f"one row, {shape['answer']} tokens decoded after it; tokens/s", told)):
        head(title, "peak GiB")
        for name, figure in figures.items():
            memory = statistics.median(r["peak_rss"] for r in groups[name])
            print(f"{name:<34}{figure}{memory / 2**30:>12.2f}")
    active = [k for k in groups if k.startswith("polyad") and not k.endswith(", none")]
    if "llama.cpp" in groups and active:
        for what, figures, bar in (("prompt", read, 3.0), ("decoding", told, 1.2)):
            worst = min(active, key=lambda k: figures[k].median)
            bars.append((f"one row, {what}: llama.cpp's tokens/s, with a skill active ({worst})",
                         figures[worst].median / figures["llama.cpp"].median, ">=", bar))


def mixed_table(results, bars):
    groups = collections.defaultdict(list)
    for result in results:
        times = result.get("seconds") or [p + d for p, d in zip(result["prompt_seconds"], result["decode_seconds"])]
        new = result["rows"] * (result["answer"] + 1)
        groups[f"{result['name']} {result['dtype']}, {result['skills']}"] += [new / s for s in times]
    shape = results[0]
    figures = {name: Figure(values) for name, values in groups.items()}
    head(f"{shape['rows']} rows, {shape['prompt']} prompt and {shape['answer'] + 1} new tokens; new tokens/s")
    for name, figure in figures.items():
        print(f"{name:<34}{figure}")
    ours = {name.split(", ")[1]: f.median for name, f in figures.items() if name.startswith("polyad")}
    peft = [f.median for name, f in figures.items() if name.startswith("peft") and name.endswith("mixed")]
    for skills, value in ours.items():
        if skills == "none":
            continue
        what = "a skillset per row" if skills.endswith("-each") else f"a task of one skillset ({skills}) per row"
        if peft:
            bars.append((f"mixed batch, {what}: PEFT's mixed tokens/s, its best", value / max(peft), ">=", 10.0))
        if "none" in ours:
            bars.append((f"mixed batch, {what}: of our own base", value / ours["none"], ">=", 0.85))


def serving_bars(result, bars):
    """What serve_bench has judged itself; its own table was printed as it ran."""
    for name, ratio in result.get("ratios", {}).items():
        bars.append((f"serving: {name}", ratio["value"]["median"], ">=", ratio["bar"]))
    if "switch" in result:
        bars.append(("serving: milliseconds to switch to another resident skillset", result["switch"]["cost_ms"], "<=", 1.0))
    if "publish" in result:
        one = result["publish"]
        bars.append(("serving: the longest step while a version is published, steps longer than usual "
                     f"({one['longer_by_one_while_publishing']} of {one['steps_while_publishing']} by more than one; without any: "
                     f"{one['steps_longer_without']:.2f}, {one['longer_by_one']} of {one['steps']}; the system's own gaps: "
                     f"{one['longest_gap_of_the_system']:.2f})", one["steps_longer"], "<=", 1.0))


def kernels_table(results):
    limits = {name: r for r in results for name in ("limit_memory", "limit_products") if r["name"].startswith(name)}
    memory = limits.get("limit_memory", {}).get("B/s", 0)
    products = limits.get("limit_products", {}).get("FLOP/s", 0)
    print(f"\nkernels, one layer's worth; limits: {memory / 1e9:.1f} GB/s read from memory, {products / 1e9:.0f} GFLOP/s\n"
          f"{'':<34}{'ms':>9}{'GB/s':>9}{'GFLOP/s':>9}{'of memory':>12}{'of products':>12}")
    for r in results:
        scale = {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3}[r["time_unit"]]
        speed, flops = r.get("B/s", 0), r.get("FLOP/s", 0)
        name = r["name"].replace("/real_time", "")
        print(f"{name:<34}{r['real_time'] * scale:>9.3f}"
              + (f"{speed / 1e9:>9.1f}" if speed else f"{'':>9}") + (f"{flops / 1e9:>9.0f}" if flops else f"{'':>9}")
              + (f"{speed / memory:>12.2f}" if speed and memory else f"{'':>12}")
              + (f"{flops / products:>12.2f}" if flops and products else ""))


def main():
    train, one, mixed, kernels, serving = [], [], [], [], []
    with open(sys.argv[1], encoding="utf-8") as file:
        for line in filter(str.strip, file):
            result = json.loads(line)
            if "real_time" in result:
                kernels.append(result)
            elif "serve" in result:
                serving.append(result["serve"])
            elif "prompt" in result:
                (one if result["rows"] == 1 else mixed).append(result)
            else:
                train.append(result)
    if not any((train, one, mixed, kernels, serving)):
        sys.exit(f"{sys.argv[1]}: no results")
    about = machine()
    print(f"machine: {about['cpu']}, {about['cores']} cores, {' '.join(about['instructions'])}, {about['system']}, "
          f"load {about['load']}; commit {about['commit']}")
    bars = []
    for results, table in ((train, train_table), (one, one_row_table), (mixed, mixed_table)):
        if results:
            table(results, bars)
    if kernels:
        kernels_table(kernels)
    for result in serving:
        serving_bars(result, bars)
    met = {">=": lambda value, bar: value >= bar, "<=": lambda value, bar: value <= bar}
    if bars:
        print(f"\n{'bars':<86}{'figure':>9}{'bar':>9}")
        for what, value, sense, bar in bars:
            print(f"{what:<86}{value:>9.2f}{sense:>4}{bar:>5g}{'' if met[sense](value, bar) else '   missed'}")
    if len(sys.argv) > 2:
        with open(sys.argv[2], "w", encoding="utf-8") as file:
            json.dump({"machine": about, "training": train, "one_row": one, "mixed": mixed, "serving": serving,
                       "kernels": kernels, "bars": [{"what": w, "value": v, "sense": s, "bar": b, "met": met[s](v, b)}
                                for w, v, s, b in bars]}, file, indent=1)


if __name__ == "__main__":
    main()
