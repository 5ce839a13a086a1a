#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes the Python environment with llama.cpp (bench/peers/llama-requirements.txt, pinned) unless it is there, and
# prints its python. The package is a source archive: it is compiled here, for this machine's own instructions, in
# about 8 minutes on 2 cores. Exits 1 with the reason on stderr where it cannot be made.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.deps/venv-llama
stamp=$venv/$(sha256sum bench/peers/llama-requirements.txt | cut -c1-32)
if [[ ! -e $stamp ]]; then
    python=$(command -v python3.11 || command -v python3 || true)
    [[ -n $python ]] || { echo "llama.cpp's binding needs python3" >&2; exit 1; }
    "$python" -c 'import venv, ensurepip' 2>/dev/null || { echo "python3 has no venv module" >&2; exit 1; }
    echo "making $venv (compiles llama.cpp, about 8 minutes)" >&2
    {
        "$python" -m venv --clear "$venv"
        CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) CMAKE_ARGS="-DGGML_NATIVE=ON" \
            "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --retries 1 \
            -r bench/peers/llama-requirements.txt
    } >&2 || { echo "llama.cpp could not be installed" >&2; exit 1; }
    : >"$stamp"
fi
echo "$PWD/$venv/bin/python"
