#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Where the time goes: profile.sh BIN_FOLDER MODEL ROWS OUT.txt. With perf where it is there and allowed, else with
# callgrind (much slower, so fewer steps), else not at all, saying so.
set -euo pipefail
bin=$1 gguf=$2 rows=$3 out=$4
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

train=("$bin/train_bench" --model "$gguf" --rows "$rows" --method lora --steps 12 --profile)
prompt=("$bin/generate_bench" --model "$gguf" --rows "$rows" --skills lora --prompt 512 --answer 1 --repeats 12)
decode=("$bin/generate_bench" --model "$gguf" --rows "$rows" --skills lora --prompt 16 --answer 256 --repeats 3)
mixed=("$bin/generate_bench" --model "$gguf" --rows "$rows" --skills poly --count 8 --prompt 16 --answer 128 --repeats 3)

: >"$out"
if perf record -q -o "$scratch/probe" true 2>/dev/null; then
    for what in train prompt decode mixed; do
        declare -n command=$what
        printf 'profile: %s\n' "$what" >&2
        perf record -q -F 999 -o "$scratch/$what" "${command[@]}" >/dev/null 2>&1
        {
            printf '\n%s: %s\n' "$what" "${command[*]##*/}"
            perf report --stdio --no-children -g none --percent-limit 0.8 -i "$scratch/$what" 2>/dev/null |
                sed -n '/^ *[0-9]/p' | cut -c1-140 | head -n 25
        } >>"$out"
    done
elif command -v valgrind >/dev/null; then
    OMP_NUM_THREADS=1 valgrind --tool=callgrind --callgrind-out-file="$scratch/out" "$bin/generate_bench" \
        --model "$gguf" --rows "$rows" --skills lora --prompt 16 --answer 2 --repeats 1 >/dev/null 2>&1 || true
    callgrind_annotate "$scratch/out" | head -n 40 >>"$out"
else
    printf 'neither perf nor callgrind can be used here\n' | tee "$out"
    exit 0
fi
cat "$out"
