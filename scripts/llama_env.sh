#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes the Python environment with llama.cpp (bench/peers/llama-requirements.txt, pinned) unless it is there, and
# prints its python. The package is a source archive: it is compiled here, for this machine's own instructions, in
# about 8 minutes on 2 cores. Exits 1 with the reason on stderr where it cannot be made.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.deps/venv-llama
flags="-DGGML_NATIVE=ON"
if grep -q amx_int8 /proc/cpuinfo 2>/dev/null; then
    # The pinned version's AMX path ends with a segmentation fault in the first llama_decode (ldtilecfg in
    # ggml_backend_amx_mul_mat): all instructions but those, so that there is a figure beside ours.
    flags="-DGGML_NATIVE=OFF"
    for set in SSE42 AVX AVX2 BMI2 FMA F16C AVX512 AVX512_VBMI AVX512_VNNI AVX512_BF16; do flags+=" -DGGML_$set=ON"; done
fi
stamp=$venv/$( (cat bench/peers/llama-requirements.txt; echo "$flags") | sha256sum | cut -c1-32)
if [[ ! -e $stamp ]]; then
    python=$(command -v python3.11 || command -v python3 || true)
    [[ -n $python ]] || { echo "llama.cpp's binding needs python3" >&2; exit 1; }
    "$python" -c 'import venv, ensurepip' 2>/dev/null || { echo "python3 has no venv module" >&2; exit 1; }
    # Not from pip's cache: it does not know with which flags a wheel was compiled.
    echo "making $venv (compiles llama.cpp, about 8 minutes)" >&2
    {
        "$python" -m venv --clear "$venv"
        CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) CMAKE_ARGS="$flags" \
            "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-deps --retries 1 \
            -r bench/peers/llama-requirements.txt
    } >&2 || { echo "llama.cpp could not be installed" >&2; exit 1; }
    : >"$stamp"
fi
echo "$PWD/$venv/bin/python"
