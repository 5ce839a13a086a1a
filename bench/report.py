#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns the JSON lines of a training benchmark into a table: report.py FILE.jsonl. Medians over rounds, with spread."""
import collections
import json
import os
import platform
import statistics
import sys


def cpu():
    model, flags = platform.processor(), []
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
            elif key.strip() == "flags" and not flags:
                flags = [f for f in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16") if f in value.split()]
    return f"{model}, {os.cpu_count()} cores, {' '.join(flags)}"


def main():
    groups = collections.defaultdict(list)
    with open(sys.argv[1], encoding="utf-8") as file:
        for line in file:
            if line.strip():
                result = json.loads(line)
                groups[result["name"], result["dtype"]].append(result)
    if not groups:
        sys.exit(f"{sys.argv[1]}: no results")
    any_result = next(iter(groups.values()))[0]
    print(f"machine: {cpu()}, {platform.system()} {platform.release()}, load {os.getloadavg()[0]:.1f}")
    print(f"step: {any_result['rows']} rows, {any_result['tokens']} tokens, {any_result['threads']} threads\n")
    print(f"{'setting':<28}{'tok/s':>8}{'min':>8}{'max':>8}{'peak GiB':>10}{'runs':>6}")
    speed, memory = {}, {}
    for key, results in groups.items():
        rates = [r["tokens"] / s for r in results for s in r["seconds"]]
        speed[key] = statistics.median(rates)
        memory[key] = statistics.median(r["peak_rss"] for r in results)
        print(f"{' '.join(key):<28}{speed[key]:>8.1f}{min(rates):>8.1f}{max(rates):>8.1f}"
              f"{memory[key] / 2**30:>10.2f}{len(rates):>6}")
    print()
    for method in sorted({name.split("-", 1)[1] for name, _ in groups}):
        ours = [k for k in groups if k[0] == f"polyad-{method}"]
        peer = [k for k in groups if k[0] == f"peft-{method}"]
        if ours and peer:
            fastest, smallest = max(peer, key=speed.get), min(peer, key=memory.get)
            best = max(ours, key=speed.get)
            print(f"{method}: {speed[best] / speed[fastest]:.2f} x PEFT's tokens/s ({best[1]} against its best, "
                  f"{fastest[1]}), {memory[best] / memory[smallest]:.2f} of its peak memory (against {smallest[1]})")


if __name__ == "__main__":
    main()
