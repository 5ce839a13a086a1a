#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# build.sh PRESET [TARGET...]: bootstraps, configures and builds one preset of CMakePresets.json.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=$1
shift
scripts/bootstrap.sh
mkdir -p "build/$preset"
export POLYAD_CARGO_TARGET_DIR=${POLYAD_CARGO_TARGET_DIR:-$PWD/build/cargo}  # the crates are the same for every preset
cmake --preset "$preset" ${POLYAD_LIBTORCH:+"-DCMAKE_PREFIX_PATH=$POLYAD_LIBTORCH"} >"build/$preset/configure.log" ||
    { cat "build/$preset/configure.log" >&2; exit 1; }
cmake --build --preset "$preset" ${*:+--target "$@"}
