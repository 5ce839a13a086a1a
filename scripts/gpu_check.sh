#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# gpu_check.sh [FOLDER] [STEP...]: builds Polyad with its CUDA library and runs on the GPU of this machine: the kernels'
# tests, golden vectors and model parity, every method on both devices, and the benchmarks beside PyTorch's. FOLDER is
# what scripts/gpu_carry.sh made (default .gpu, then nothing: a machine with everything installed). Steps: build kernels
# parity golden methods memory bench (default: all). Nothing is fetched. One line per step at the end; a failed step
# does not stop the others. Logs: build/gpu-check.
set -uo pipefail
cd "$(dirname "$0")/.."
carried=.gpu
[[ ${1:-} == */* || -d ${1:-} ]] && { carried=$1; shift; }
steps=("$@")
((${#steps[@]})) || steps=(build kernels parity golden methods memory bench)
carried=$(cd "$carried" 2>/dev/null && pwd || true)
build=$PWD/build/gpu
logs=${POLYAD_GPU_LOGS:-$PWD/build/gpu-check}
mkdir -p "$logs"

shared=${POLYAD_SHARED_DIR:-$PWD/../shared}
[[ -d $carried/shared ]] && shared=$carried/shared
torch=${POLYAD_LIBTORCH:-$(python3 -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])')}
[[ -e $torch/lib/libtorch_cuda.so ]] ||
    { echo "gpu_check: no LibTorch for CUDA: python3 has no such torch and POLYAD_LIBTORCH names none" >&2; exit 2; }
export LD_LIBRARY_PATH=$torch/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export POLYAD_CUDA_LIBRARY=$build/capi/libpolyad_cuda.so

summary=()
failed=0
step() {  # step NAME COMMAND...: runs it, keeps its output, notes how it ended
    local name=$1 begin=$SECONDS rc=0
    shift
    "$@" >"$logs/$name.log" 2>&1 || rc=$?
    if ((rc)); then
        failed=1
        printf -- '---- %s failed (%d):\n' "$name" "$rc"
        grep -E 'FAIL|rror|what\(\)|terminate' "$logs/$name.log" | head -n "${POLYAD_GPU_LINES:-25}"
        tail -n 5 "$logs/$name.log"
    fi
    summary+=("$(printf '%-22s %s in %d s: %s' "$name" "$( ((rc)) && echo FAILED || echo ok)" \
        $((SECONDS - begin)) "$(tail -n 1 "$logs/$name.log" | cut -c1-150)")")
}

for one in "${steps[@]}"; do
    case $one in
        build)
            prefixes=$torch
            options=()
            if [[ -d $carried/prefix ]]; then
                prefixes="$torch;$carried/prefix"
                options+=("-DPOLYAD_TEXT_RUST_LIBRARY=$carried/prefix/lib/libpolyad_text_rust.a")
            fi
            step configure cmake -G Ninja -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH="$prefixes" \
                -DPOLYAD_SHARED_DIR="$shared" -DPOLYAD_BENCHMARKS=ON "${options[@]}"
            step build cmake --build "$build" -j "$(nproc)" -- -k 0 polyad_cuda cuda_kernels_test golden_runner \
                parity_runner device_methods_test capi_device_test polyad-cli device_bench
            ;;
        kernels) step kernels "$build/tests/cuda_kernels_test" ;;
        parity)
            step parity "$build/tests/parity_runner" --device cuda "$shared/fixtures/models" "$shared/fixtures/gguf"
            step parity_bf16 "$build/tests/parity_runner" --device cuda --precision bf16 "$shared/fixtures/models" \
                "$shared/fixtures/gguf"
            step parity_packed "$build/tests/parity_runner" --device cuda --weights packed "$shared/fixtures/gguf"
            ;;
        golden) step golden "$build/tests/golden_runner" "$shared/golden" --device cuda ;;
        methods) step methods env POLYAD_TEST_DEVICE=cuda "$build/tests/device_methods_test" ;;
        memory) step memory env POLYAD_TEST_DEVICE=cuda "$build/tests/capi_device_test" ;;
        bench) step bench python3 bench/peers/cuda.py --polyad "$build" --out "$logs" ;;
        *) echo "gpu_check: no step '$one'" >&2; exit 2 ;;
    esac
done
printf '%s\n' "${summary[@]}"
exit $failed
