#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prints every C and C++ source of the project, each followed by a NUL byte.
set -euo pipefail
cd "$(dirname "$0")/.."
git ls-files -z --cached --others --exclude-standard -- '*.c' '*.h' '*.cpp'
