#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# lora_files.sh LIBRARY MODEL...: llama.cpp loads exported LoRA files. Wants a Python that has llama-cpp-python, which takes ten minutes to
# build, so that no test makes it: LLAMA_PYTHON=PATH, or .deps/venv-llama (python3.11 -m venv .deps/venv-llama &&
# .deps/venv-llama/bin/pip install llama-cpp-python).
set -u
here=$(cd "$(dirname "$0")" && pwd)
library=$1
shift
python=${LLAMA_PYTHON:-$here/../../.deps/venv-llama/bin/python}
"$python" -c 'import llama_cpp, numpy' 2>/dev/null || { echo "skipped: no Python with llama-cpp-python at $python (LLAMA_PYTHON names another)"; exit 77; }
for model in "$@"; do
    [ -f "$model" ] || { echo "skipped: $model is not here"; exit 77; }
    # Its AMX path ends with a segmentation fault on narrow models, with Polyad nowhere near.
    "$python" -c 'import llama_cpp, sys
llama_cpp.Llama(sys.argv[1], n_ctx=128, logits_all=True, n_threads=1, verbose=False).eval([1, 2, 3])' "$model" >/dev/null 2>&1 ||
        { echo "skipped: llama.cpp alone fails on $model on this machine"; exit 77; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" "$here/lora_files.py" "$library" "$work" "$@"
