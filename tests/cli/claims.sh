#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# claims.sh CLAIMS FIXTURES: the comparison on the tiny model: a few methods, resumed, tables between the markers.
set -u
claims=$1 model=$2/gguf/tiny_llama.gguf
[ -f "$model" ] || { echo "skipped: $model is not here"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
mkdir tasks docs
for i in 1 2 3 4 5 6 7 8; do
    for task in up down left; do
        split=train
        [ $i -gt 6 ] && split=test
        echo "{\"task\": \"$task\", \"instruction\": \"Go.\", \"input\": \"$i\", \"output\": \"$task\", \"split\": \"$split\"}"
    done
done >tasks/rows.jsonl
echo '{"tasks": [{"task": "up", "role": "train"}, {"task": "down", "role": "train"}, {"task": "left", "role": "transfer"}]}' >tasks/tasks.json
printf '# Claims\n\nWritten by hand.\n\n<!-- measured: written by `make claims` -->\nold\n<!-- measured: end -->\n\nAlso by hand.\n' >docs/claims.md

fail() { echo "$*"; cat out.txt; exit 1; }
run() { "$claims" --model "$model" --tasks tasks --run run --docs docs --steps 2 --test-rows 2 --few-shot-steps 2 "$@" >out.txt 2>&1; }
run --only lora_r8 || fail "the first run failed"
grep -q 'ROUGE-L .* few-shot' out.txt || fail "no cell was computed"
run --only lora_r8 poly_4x2 cpoly_3+1x2 molora_4x2 || fail "the second run failed"
grep -q '^lora_r8 .* seed' out.txt && fail "a finished cell was computed again"
for name in lora_r8 poly_4x2 cpoly_3+1x2 molora_4x2; do
    grep -qF "| $name |" docs/claims.md || fail "$name is not in the table"
    [ -f "run/cells/$name-0.json" ] || fail "$name was not kept"
done
grep -q '^Written by hand' docs/claims.md && grep -q '^Also by hand' docs/claims.md || fail "what people wrote is gone"
grep -q '^old' docs/claims.md && fail "the old table is still there"
grep -q '"tokens_per_second"' docs/claims.json || fail "no JSON"
run --only nosuch && fail "an unknown configuration was taken"
grep -q nosuch out.txt || fail "the unknown configuration is not named"
"$claims" --list | grep -q 'cpoly_one_hot' || fail "--list is silent"
echo "claims: all good"
