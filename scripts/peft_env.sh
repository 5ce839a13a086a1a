#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes the Python environment with Hugging Face PEFT (bench/peers/requirements.txt, pinned) unless it is there, and
# prints its python. Exits 1 with the reason on stderr where it cannot be made. What LibTorch's wheels bring is taken
# from .deps/wheels, the rest (about 60 MB) from PyPI.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.deps/venv-peers
stamp=$venv/$(cat bench/peers/requirements.txt bench/peers/cuda_stubs.py | sha256sum | cut -c1-32)
if [[ ! -e $stamp ]]; then
    # The pinned PyTorch wheel is for Python 3.11, Debian 12's.
    python=$(command -v python3.11 || true)
    [[ -n $python ]] || { echo "PEFT needs python3.11" >&2; exit 1; }
    "$python" -c 'import venv, ensurepip' 2>/dev/null || { echo "python3.11 has no venv module" >&2; exit 1; }
    echo "making $venv (about 1.6 GB)" >&2
    {
        "$python" -m venv --clear "$venv"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --retries 1 \
            --find-links .deps/wheels -r bench/peers/requirements.txt
        "$venv/bin/python" bench/peers/cuda_stubs.py "$(echo "$venv"/lib/python3.*/site-packages)" >/dev/null
    } >&2 || { echo "PEFT's packages could not be installed" >&2; exit 1; }
    : >"$stamp"
fi
echo "$PWD/$venv/bin/python"
