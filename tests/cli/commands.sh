#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# commands.sh POLYAD FIXTURES: every command of the command line on the tiny model, its exit codes, and Ctrl-C with --resume.
set -u
polyad=$1 model=$2/gguf/tiny_llama.gguf
[ -f "$model" ] || { echo "skipped: $model is not here"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
passed=0 failed=0

# expect NAME EXIT_CODE TEXT COMMAND...: the exit code, and TEXT somewhere in the output
expect() {
    name=$1 code=$2 want=$3
    shift 3
    "$@" >out.txt 2>&1
    got=$?
    if [ $got -eq "$code" ] && { [ -z "$want" ] || grep -qF -- "$want" out.txt; }; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "$name: exit code $got, wanted $code, and '$want' in:"
        sed 's/^/    /' out.txt
    fi
}

for i in a b c d e f g h; do
    for task in up down; do
        split=train
        [ $i = g ] && split=validation
        [ $i = h ] && split=test
        echo "{\"task\": \"$task\", \"instruction\": \"Say it.\", \"input\": \"$i\", \"output\": \"$task\", \"split\": \"$split\"}"
    done
done >tasks.jsonl
echo '{"task": "up", "input": 3}' >bad.jsonl
printf '{"task": "up", "prompt": "h"}\n{"task": "down", "prompt": "h"}\n' >batch.jsonl
train="train --model $model --precision fp32 --tasks tasks.jsonl --method cpoly --rank 2 --prompt plain --batch-size 4"

expect help 0 "polyad train" "$polyad" --help
expect version 0 "libtorch" "$polyad" --version
expect "no command" 2 "" "$polyad"
expect "unknown option" 2 "nosuch" "$polyad" tasks tasks.jsonl --nosuch
expect tasks 0 "down" "$polyad" tasks tasks.jsonl --examples 1
expect "inspect model" 0 "llama" "$polyad" inspect "$model"
expect "inspect tasks" 0 "validation" "$polyad" inspect tasks.jsonl
expect "missing model" 3 "nosuch.gguf" "$polyad" inspect nosuch.gguf
expect "bad row" 4 "bad.jsonl" "$polyad" train --model "$model" --tasks bad.jsonl --out x.polyad
expect "unknown method" 2 "cpoly" "$polyad" train --model "$model" --tasks tasks.jsonl --method nosuch --out x.polyad
expect "unknown key" 2 "rnk" "$polyad" train --model "$model" --tasks tasks.jsonl --config '{"rnk": 1}' --out x.polyad

expect train 0 "saved one.polyad" "$polyad" $train --max-steps 6 --out one.polyad
expect "train again" 0 "" "$polyad" $train --max-steps 6 --out two.polyad --quiet
cmp -s one.polyad two.polyad && passed=$((passed + 1)) || { failed=$((failed + 1)); echo "the same seed gave another bundle"; }
expect "train json" 0 '"history"' "$polyad" $train --max-steps 2 --out three.polyad --json
expect "inspect bundle" 0 "cpoly" "$polyad" inspect one.polyad
expect "inspect weights" 0 "skills each task uses" "$polyad" inspect one.polyad --model "$model"
expect eval 0 "ROUGE-L" "$polyad" eval --model "$model" --bundle one.polyad --tasks tasks.jsonl --baseline --max-tokens 4
expect "eval json" 0 '"overall"' "$polyad" eval --model "$model" --bundle one.polyad --tasks tasks.jsonl --json --max-tokens 4
expect generate 0 "" "$polyad" generate --model "$model" --bundle one.polyad --task up --max-tokens 4 h
expect "generate batch" 0 "2 rows in one batch" "$polyad" generate --model "$model" --bundle one.polyad --batch batch.jsonl --max-tokens 4
expect "unknown task" 4 "sideways" "$polyad" generate --model "$model" --bundle one.polyad --task sideways h
sed 's/"up"/"left"/g; s/"down"/"right"/g' tasks.jsonl >new.jsonl
expect "few-shot" 0 "saved four.polyad" "$polyad" train --model "$model" --precision fp32 --tasks new.jsonl --init one.polyad \
    --config '{"train": "router"}' --max-steps 2 --out four.polyad
expect "new task" 0 "" "$polyad" generate --model "$model" --bundle four.polyad --task left --max-tokens 4 h
expect "export peft" 0 "wrote lora" "$polyad" export --model "$model" --bundle one.polyad --task up --out lora
expect "import peft" 0 "method lora" "$polyad" import --model "$model" --precision fp32 --out five.polyad --prompt plain lora
expect "imported answers" 0 "" "$polyad" generate --model "$model" --bundle five.polyad --max-tokens 4 h
expect "export another" 0 "" "$polyad" export --model "$model" --bundle one.polyad --task down --out lora2 --quiet
expect "import set" 0 "method lora_set, 2 tasks" "$polyad" import --model "$model" --out set.polyad --prompt plain lora lora2
expect "generate weights" 0 "" "$polyad" generate --model "$model" --bundle set.polyad --skill-weights 0.5,0.5 --max-tokens 4 h
expect "import merge" 0 "method lora," "$polyad" import --model "$model" --out six.polyad --combine ties --density 0.5 lora lora2
expect "merge without density" 2 "density" "$polyad" import --model "$model" --out x.polyad --combine ties lora lora2
expect "export gguf" 0 "wrote up.gguf" "$polyad" export --model "$model" --bundle one.polyad --task up --format gguf --out up.gguf
expect "export without task" 2 "'down', 'up'" "$polyad" export --model "$model" --bundle one.polyad --out lora
expect "export format" 2 "onnx" "$polyad" export --model "$model" --bundle one.polyad --format onnx --out lora
expect "import nothing" 3 "adapter_config.json" "$polyad" import --model "$model" --out x.polyad .
# Two stages in one command, and the second over what the first left.
pemt="train --model $model --precision fp32 --tasks new.jsonl --method pemt --prompt plain --max-steps 2 --batch-size 4"
expect "both stages" 0 "saved five.polyad" "$polyad" $pemt --source-tasks tasks.jsonl --rank 2 --out five.polyad
expect "second stage" 0 "saved six.polyad" "$polyad" $pemt --sources five.sources.polyad --out six.polyad
cmp -s five.polyad six.polyad && passed=$((passed + 1)) || { failed=$((failed + 1)); echo "the second stage alone gave another bundle"; }
expect "gates" 0 "columns: down up" "$polyad" inspect five.polyad --model "$model"
rm five.sources.polyad
expect "target task" 0 "" "$polyad" generate --model "$model" --bundle five.polyad --task left --max-tokens 4 h
expect "no sources" 2 "stage 1" "$polyad" $pemt --out x.polyad
expect "other sources" 2 "method 'cpoly'" "$polyad" $pemt --sources one.polyad --out x.polyad
# Task-level MoE in two stages, an expert put out of use, a new task squeezed to plain weights and trained on.
moe='{"expert_kind": "lora", "rank": 2, "router_hidden": 4, "task_vec_dim": 8}'
expect "task moe" 0 "saved moe.polyad" "$polyad" train --model "$model" --precision fp32 --tasks tasks.jsonl --method task_moe \
    --config "$moe" --prompt plain --max-steps 4 --batch-size 4 --out moe.polyad
expect "second stage of task moe" 0 "task_moe" "$polyad" derive --model "$model" --bundle moe.polyad --form second_stage --out moe2.polyad
expect "train second stage" 0 "saved moe3.polyad" "$polyad" train --model "$model" --precision fp32 --tasks tasks.jsonl --init moe2.polyad \
    --max-steps 2 --batch-size 4 --out moe3.polyad
expect "disable an expert" 0 "saved off.polyad" "$polyad" derive --model "$model" --bundle moe3.polyad --disable 0:1 --disable 1:2 --out off.polyad
expect "disabled expert" 0 "disabled_experts" "$polyad" inspect off.polyad --json
expect "squeeze" 0 "method lora, 1 tasks" "$polyad" derive --model "$model" --bundle moe3.polyad --form squeeze --task up --out plain.polyad
expect "squeeze a new task" 0 "method lora, 1 tasks" "$polyad" derive --model "$model" --bundle moe3.polyad --tasks new.jsonl \
    --form squeeze --task left --out left.polyad
grep left new.jsonl >left.jsonl
expect "train what was squeezed" 0 "saved left2.polyad" "$polyad" train --model "$model" --precision fp32 --tasks left.jsonl --init left.polyad \
    --max-steps 2 --batch-size 4 --out left2.polyad
expect "squeeze without a task" 2 "name it" "$polyad" derive --model "$model" --bundle moe.polyad --form squeeze --out x.polyad
expect "token router" 0 "" "$polyad" train --model "$model" --precision fp32 --tasks tasks.jsonl --method molora --rank 2 --prompt plain \
    --max-steps 1 --batch-size 4 --out molora.polyad
expect "squeeze a token router" 5 "task alone" "$polyad" derive --model "$model" --bundle molora.polyad --form squeeze --task up --out x.polyad
expect "disable nothing" 2 "LAYER:EXPERT" "$polyad" derive --model "$model" --bundle moe.polyad --disable 1 --out x.polyad
head -c 1000 one.polyad >cut.polyad
expect "damaged bundle" 4 "cut.polyad" "$polyad" generate --model "$model" --bundle cut.polyad --task up h

# Ctrl-C saves a checkpoint; --resume ends with the bundle an uninterrupted run gives.
expect "long train" 0 "saved" "$polyad" $train --max-steps 400 --out whole.polyad
"$polyad" $train --max-steps 400 --out parts.polyad 2>interrupted.txt &
process=$!
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    grep -q steps interrupted.txt && break
    sleep 0.2
done
kill -INT $process
wait $process
code=$?
if [ $code -eq 130 ]; then
    passed=$((passed + 1))
    expect resume 0 "going on from" "$polyad" $train --max-steps 400 --out parts.polyad --resume
elif [ $code -eq 0 ]; then
    echo "(the run was over before Ctrl-C came)"
else
    failed=$((failed + 1))
    echo "Ctrl-C: exit code $code"
    cat interrupted.txt
fi
cmp -s whole.polyad parts.polyad && passed=$((passed + 1)) || { failed=$((failed + 1)); echo "the resumed run differs"; }

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
