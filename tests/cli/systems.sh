#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# systems.sh SYSTEM POLYAD MODEL TASKS ENCODER: one of the five systems end to end on real tasks and a real model, every step in a
# process of its own: train -> save -> load and evaluate -> serve a batch whose rows switch tasks.
set -u
system=$1 polyad=$2 model=$3 pack=$4 encoder=$5
[ -f "$model" ] || { echo "skipped: $model is not here"; exit 77; }
[ -d "$pack" ] || { echo "skipped: $pack is not here"; exit 77; }
command -v python3 >/dev/null || { echo "skipped: no python3 to read the results with"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
fail() { echo "$*"; exit 1; }

moods=task429_senteval_tense parts=task1210_atomic_classification_madeupof genes=task1481_gene_extraction_bc2gm_dataset
mkdir tasks sources
case $system in
pemt)
    ln -s "$pack/$parts.json" "$pack/$genes.json" sources
    ln -s "$pack/$moods.json" tasks
    method="--method pemt --source-tasks sources --rank 16"
    config='{"adapter_dim": 16, "gate_reads": "prompt"}' ;;
*)
    ln -s "$pack/$moods.json" "$pack/$parts.json" "$pack/$genes.json" tasks ;;
esac
rate=2e-3
case $system in
orchmoe) method="--method orchmoe --rank 4" config='{"n_latent_tasks": 4, "table_init": "normal"}' ;;
cpoly) method="--method cpoly --rank 4" config='{"common_skills": 3}' ;;
task_moe)  # three copies of each of the last two layers
    method="--method task_moe" rate=1e-4  # whole layers move
    config='{"vanilla_layers": [0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27], "task_vec_dim": 64}' ;;
mor1e)
    [ -d "$encoder" ] || { echo "skipped: no sentence encoder at $encoder"; exit 77; }
    method="--method mor1e" config="{\"r1\": 2, \"r2\": 4, \"intuition\": {\"encoder\": \"$encoder\", \"max_tokens\": 96}}" ;;
pemt) ;;
*) fail "no system '$system'" ;;
esac

"$polyad" train --model "$model" --tasks tasks $method --config "$config" --training '{"validation_examples": 0}' \
    --max-steps 10 --batch-size 6 --learning-rate $rate --seed 1 --out skills.polyad --json >train.json || fail "train failed"
"$polyad" eval --model "$model" --bundle skills.polyad --tasks tasks --max-examples 4 --max-tokens 6 --baseline --json >scores.json ||
    fail "eval failed"
rm -rf sources skills.sources.polyad  # a bundle stands alone
python3 - "$pack" $(ls tasks) >rows.jsonl <<'PYTHON' || fail "no rows"
import json, sys
tasks = [json.load(open(f"{sys.argv[1]}/{name}", encoding="utf-8")) for name in sys.argv[2:]]
for i in range(2):
    for task in tasks:
        print(json.dumps({"task": task["task"], "prompt": task["test"][i]["input"]}))
PYTHON
answers() { "$polyad" generate --model "$model" --precision fp32 --max-tokens 6 --json "$@" || fail "generate failed"; }
answers --bundle skills.polyad --batch rows.jsonl >batch.json
tac rows.jsonl >reversed.jsonl
answers --bundle skills.polyad --batch reversed.jsonl >reversed.json
python3 - "$system" <<'PYTHON' || fail "$system is wrong"
import json, sys
load = lambda name: json.load(open(name, encoding="utf-8"))
train, scores = load("train.json"), load("scores.json")
for report in [train] + ([train["stage1"]] if sys.argv[1] == "pemt" else []):
    loss = report["history"]["loss"]
    first, last = sum(loss[:3]) / 3, sum(loss[-3:]) / 3
    print(f"loss {first:.2f} -> {last:.2f}")
    assert last < 0.9 * first, loss
base, skills = scores["base"]["overall"], scores["skills"]["overall"]
print(f"ROUGE-L {base['rouge_l']:.1f} -> {skills['rouge_l']:.1f}")
assert skills["rouge_l"] > base["rouge_l"]
texts = lambda name: [row["answer"] for row in load(name)["rows"]]
batch = texts("batch.json")
print(batch)
assert batch == texts("reversed.json")[::-1], "a row depends on the rows beside it"
PYTHON
"$polyad" inspect skills.polyad >about.txt && grep -q "$system" about.txt || fail "inspect: $(cat about.txt)"
echo "$system: all good"
