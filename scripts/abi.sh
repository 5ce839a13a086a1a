#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The shared library's interface against the baseline in packaging/abi: a removed or changed symbol or type is an error, what is added is not.
#   abi.sh check LIBRARY     77 = skipped (no abidiff here)
#   abi.sh update LIBRARY    writes a new baseline, at a release or when something was added on purpose
set -euo pipefail
cd "$(dirname "$0")/.."
command -v abidiff >/dev/null || { echo "skipped: abidiff (Debian: abigail-tools) not found"; exit 77; }
version=$(sed -n 's/^project(polyad VERSION \([0-9]*\.[0-9]*\).*/\1/p' CMakeLists.txt)
baseline=packaging/abi/polyad-$version.abi
library=$2
case $1 in
update)
    abidw --headers-dir capi/include/polyad --drop-private-types --drop-undefined-syms --no-comp-dir-path --no-corpus-path --no-show-locs \
        --type-id-style hash --short-locs --exported-interfaces-only "$library" >"$baseline"
    echo "wrote $baseline"
    ;;
check)
    status=0
    abidiff --headers-dir2 capi/include/polyad --drop-private-types --suppressions packaging/abi/growth.abignore --no-added-syms \
        --no-show-locs "$baseline" "$library" || status=$?
    ((status == 0)) || { echo "the interface differs from $baseline (abidiff: $status)"; exit 1; }
    echo "the interface is that of $baseline"
    ;;
*) exit 2 ;;
esac
