#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Formatting, then clang-tidy on the given sources (default: all that the release build compiles).
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/sources.sh | xargs -0 clang-format --dry-run --Werror
scripts/build.sh release >/dev/null
if (($#)); then files=("$@"); else
    mapfile -d '' files < <(git ls-files -z -- 'capi/*.cpp' 'cpp_impl/*.cpp' 'kernels/*.cpp' 'tools/*.cpp')
fi
# clang does not read gcc's precompiled headers: the same commands without them.
mkdir -p build/lint
sed -E 's/ -Winvalid-pch//g; s/ -include [^ "]*cmake_pch\.hxx//g' build/release/compile_commands.json \
    >build/lint/compile_commands.json
printf '%s\0' "${files[@]}" | xargs -0 -n 1 -P "$(nproc)" clang-tidy -p build/lint --quiet
