#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prints every C++ source of the project, each followed by a NUL byte. C stands as it was written: its tables of comments and its
# one-line calls would not survive clang-format.
set -euo pipefail
cd "$(dirname "$0")/.."
git ls-files -z --cached --others --exclude-standard -- '*.h' '*.cpp' ':!capi/include/polyad/polyad.h' ':!bindings/*.h'
