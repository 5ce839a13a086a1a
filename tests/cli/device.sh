#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# device.sh POLYAD FIXTURES DEVICE: training, evaluating and answering with --device, and the same answers from the bundle
# on the CPU; a device that is not there is refused.
set -u
polyad=$1 model=$2/gguf/tiny_llama.gguf device=$3
[ -f "$model" ] || { echo "skipped: $model is not here"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
for i in a b c d e f g h; do
    for task in up down; do
        split=train
        [ $i = h ] && split=test
        echo "{\"task\": \"$task\", \"instruction\": \"Say it.\", \"input\": \"$i\", \"output\": \"$task\", \"split\": \"$split\"}"
    done
done >tasks.jsonl
fail() { echo "$1" >&2; exit 1; }
run() { "$polyad" "$@" 2>&1 || fail "failed: polyad $*"; }

run devices >devices.txt
grep -q "$device" devices.txt || fail "polyad devices does not list $device: $(cat devices.txt)"
run train --device "$device" --model "$model" --precision fp32 --tasks tasks.jsonl --method cpoly --rank 2 --prompt plain \
    --batch-size 4 --max-steps 30 --learning-rate 0.01 --quiet --out there.polyad >train.txt
for where in "$device" cpu; do
    for task in up down; do
        run generate --device "$where" --model "$model" --precision fp32 --bundle there.polyad --task $task --max-tokens 8 h
    done >"answers-${where%%:*}.txt"
    run eval --device "$where" --model "$model" --precision fp32 --bundle there.polyad --tasks tasks.jsonl --max-tokens 4 >"eval-${where%%:*}.txt"
    grep -q ROUGE-L "eval-${where%%:*}.txt" || fail "no scores on $where: $(cat "eval-${where%%:*}.txt")"
done
cmp -s "answers-${device%%:*}.txt" answers-cpu.txt || fail "other answers than on the CPU: $(diff "answers-${device%%:*}.txt" answers-cpu.txt)"
"$polyad" generate --device cuda:99 --model "$model" --bundle there.polyad --task up --max-tokens 1 h >refused.txt 2>&1 &&
    fail "a device that is not there was taken"
grep -q cuda refused.txt || fail "the refusal names no device: $(cat refused.txt)"
echo "trained and answered on $device as on the CPU"
