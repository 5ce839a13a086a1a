#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# round_trip.sh LIBRARY FIXTURES: adapters go from Hugging Face PEFT to Polyad and back, logits equal on both sides.
# Makes its Python environment (scripts/peft_env.sh) where it is missing; POLYAD_TEST_PEFT=0 skips.
set -u
here=$(cd "$(dirname "$0")" && pwd)
[ "${POLYAD_TEST_PEFT:-1}" != 0 ] || { echo "skipped: POLYAD_TEST_PEFT=0"; exit 77; }
[ -d "$2/models/llama" ] || { echo "skipped: $2/models/llama is not here"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=$("$here/../../scripts/peft_env.sh" 2>"$work/why") || { echo "skipped: $(tail -n 1 "$work/why")"; exit 77; }
run() { HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error PYTHONWARNINGS=ignore "$python" "$here/round_trip.py" "$@"; }
# PEFT and Polyad each bring a LibTorch: never both in one process.
run make "$2" "$work" && run polyad "$2" "$work" "$1" && run check "$2" "$work"
