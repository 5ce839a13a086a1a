#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# gpu_check.sh [FOLDER] [STEP...]: builds Polyad with its CUDA library and runs on the GPU of this machine: the kernels'
# tests, decoding from graphs, golden vectors and model parity, every method on both devices, out of memory, the command
# line, the benchmarks beside PyTorch's, and compute-sanitizer where there is one. FOLDER is what scripts/gpu_carry.sh
# made (default .gpu; where there is none, a machine with everything installed). Steps: build kernels graphs parity
# golden methods memory cli bench sanitize (default: all, in this order). Nothing is fetched.
# A failed step does not stop the others. Logs: build/gpu-check; build/gpu-check/summary.md is what docs/gpu.md quotes.
# POLYAD_GPU_SECONDS=480: ends after that time; what has not run by then counts as failed.
# bench measures the shape of SmolLM2-135M; POLYAD_GPU_SHAPES=135m,1b takes minutes more.
set -uo pipefail
cd "$(dirname "$0")/.."
all=(build kernels graphs parity golden methods memory cli bench sanitize)
carried=.gpu
if [[ -n ${1:-} && ( $1 == */* || -d $1 ) ]]; then
    [[ -d $1 ]] || { echo "gpu_check: there is no folder '$1'" >&2; exit 2; }
    carried=$1
    shift
fi
steps=("$@")
((${#steps[@]})) || steps=("${all[@]}")
for one in "${steps[@]}"; do
    [[ " ${all[*]} " == *" $one "* ]] || { echo "gpu_check: no step '$one', there are: ${all[*]}" >&2; exit 2; }
done
carried=$(cd "$carried" 2>/dev/null && pwd || true)
build=${POLYAD_GPU_BUILD:-$PWD/build/gpu}
logs=${POLYAD_GPU_LOGS:-$PWD/build/gpu-check}
mkdir -p "$logs"

shared=${POLYAD_SHARED_DIR:-$PWD/../shared}
[[ -n $carried && -d $carried/shared ]] && shared=$carried/shared
for tool in cmake ninja g++ python3; do
    command -v $tool >/dev/null || { echo "gpu_check: $tool is missing" >&2; exit 2; }
done
torch=${POLYAD_LIBTORCH:-$(python3 -c 'import importlib.util as u; s = u.find_spec("torch"); print(s.submodule_search_locations[0] if s else "")')}
[[ -e $torch/lib/libtorch_cuda.so ]] ||
    { echo "gpu_check: no LibTorch for CUDA in '$torch': install a torch for CUDA, or name one with POLYAD_LIBTORCH" >&2; exit 2; }
export LD_LIBRARY_PATH=$torch/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export POLYAD_CUDA_LIBRARY=$build/capi/libpolyad_cuda.so

summary=()
failed=0
begun=$SECONDS
budget=${POLYAD_GPU_SECONDS:-0}
step() {  # step NAME SECONDS COMMAND...: runs it at most so long, keeps its output, notes how it ended
    local name=$1 limit=$2 begin=$SECONDS rc=0 state=ok
    shift 2
    if ((budget > 0 && budget - (SECONDS - begun) < limit)); then
        limit=$((budget - (SECONDS - begun)))
        if ((limit < 10)); then
            failed=1
            summary+=("| $name | not run | | the time was up |")
            printf '%-14s not run: the time was up\n' "$name"
            return
        fi
    fi
    timeout -k 10 "$limit" "$@" >"$logs/$name.log" 2>&1 || rc=$?
    if ((rc)); then
        failed=1
        state=FAILED
        ((rc == 124 || rc == 137)) && state="FAILED (stopped after $limit s)"
        printf -- '---- %s failed (%d):\n' "$name" "$rc"
        grep -E 'FAIL|rror|what\(\)|terminate' "$logs/$name.log" | head -n "${POLYAD_GPU_LINES:-25}"
        tail -n 5 "$logs/$name.log"
    fi
    local last
    last=$(grep -v '^ *$' "$logs/$name.log" | tail -n 1 | tr -d '|' | cut -c1-150)
    summary+=("| $name | $state | $((SECONDS - begin)) s | $last |")
    printf '%-14s %s in %d s: %s\n' "$name" "$state" $((SECONDS - begin)) "$last"
}
tests() {  # tests NAME SECONDS PROGRAM...: a GoogleTest program that must not skip tests for want of a GPU
    local name=$1 limit=$2
    shift 2
    step "$name" "$limit" bash -c \
        '"$@" || exit; ! grep -qE "no CUDA device|records nothing" "$0" || { echo "FAILED: tests were skipped"; exit 1; }' \
        "$logs/$name.log" "$@"
}

for one in "${steps[@]}"; do
    case $one in
        build)
            prefixes=$torch
            options=()
            if [[ -n $carried && -d $carried/prefix ]]; then
                prefixes="$torch;$carried/prefix"
                options+=("-DPOLYAD_TEXT_RUST_LIBRARY=$carried/prefix/lib/libpolyad_text_rust.a")
            fi
            step configure 120 cmake -G Ninja -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH="$prefixes" \
                -DPOLYAD_SHARED_DIR="$shared" -DPOLYAD_BENCHMARKS=ON -DPOLYAD_CUDA=ON "${options[@]}"
            step build 600 cmake --build "$build" -j "$(nproc)" -- -k 0 polyad_cuda cuda_library_test cuda_kernels_test \
                cuda_kernels_bench golden_runner parity_runner decode_graphs_test device_methods_test capi_device_test \
                polyad-cli device_bench
            ;;
        kernels)
            step library 60 "$build/tests/cuda_library_test"
            tests kernels 180 "$build/tests/cuda_kernels_test"
            ;;
        graphs) tests graphs 120 env POLYAD_TEST_DEVICE=cuda "$build/tests/decode_graphs_test" ;;
        parity)
            step parity 180 "$build/tests/parity_runner" --device cuda "$shared/fixtures/models" "$shared/fixtures/gguf"
            # The tiny T5's adapter gradients are too small for bf16, on the CPU, too.
            step parity_bf16 120 "$build/tests/parity_runner" --device cuda --precision bf16 \
                "$shared"/fixtures/models/{llama,qwen2,qwen3,mistral} "$shared/fixtures/gguf"
            step parity_packed 60 "$build/tests/parity_runner" --device cuda --weights packed "$shared/fixtures/gguf"
            ;;
        golden) step golden 120 "$build/tests/golden_runner" "$shared/golden" --device cuda ;;
        methods) tests methods 180 env POLYAD_TEST_DEVICE=cuda "$build/tests/device_methods_test" ;;
        memory) tests memory 120 env POLYAD_TEST_DEVICE=cuda "$build/tests/capi_device_test" ;;
        cli) step cli 120 sh tests/cli/device.sh "$build/tools/polyad" "$shared/fixtures" cuda:0 ;;
        bench)
            step bench 300 python3 bench/peers/cuda.py --polyad "$build" --out "$logs" --shapes "${POLYAD_GPU_SHAPES:-135m}"
            step kernel_speed 90 "$build/bench/cuda_kernels_bench" "$POLYAD_CUDA_LIBRARY"
            ;;
        sanitize)
            sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null || true)
            if [[ -n $sanitizer ]]; then
                # Every test of the kernels, in parts that end in time; what a new test's name does not fit is in `others`.
                heavy='LowRankForward*:*LowRankInOne:*Attention*:*Sampl*:*Quantised*'
                for tool in 'memcheck --report-api-errors no' racecheck; do  # one test asks for more memory than there is
                    for part in low_rank:'*LowRankForward*' fused:'*LowRankInOne' attention:'*Attention*' \
                        head:'*Sampl*' quantised:'*Quantised*' others:"-*$heavy"; do
                        # shellcheck disable=SC2086
                        step "${tool%% *}_${part%%:*}" 240 "$sanitizer" --tool $tool --error-exitcode 9 \
                            "$build/tests/cuda_kernels_test" "--gtest_filter=${part#*:}"
                    done
                done
            else
                summary+=("| memcheck, racecheck | not run | | there is no compute-sanitizer |")
            fi
            ;;
    esac
done

{
    printf '%s, driver %s; torch %s; %s; %s CPU cores; Polyad %s; %d s in all\n\n' \
        "$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1 || true)" \
        "$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1 || true)" \
        "$(cat "$torch/version.py" 2>/dev/null | sed -n "s/^__version__ = '\(.*\)'/\1/p")" \
        "$(g++ --version | head -n 1)" "$(nproc)" "$(git rev-parse --short HEAD 2>/dev/null || echo unversioned)" $((SECONDS - begun))
    printf '| step | | time | last line |\n|---|---|---|---|\n'
    printf '%s\n' "${summary[@]}"
    if [[ " ${steps[*]} " == *" bench "* ]]; then
        printf '\n```\n'
        cat "$logs/bench.log"
        printf '```\n'
    fi
} >"$logs/summary.md"
printf '\n%s: %s\n' "$logs/summary.md" "$( ((failed)) && echo 'a step failed' || echo 'every step passed')"
exit $failed
