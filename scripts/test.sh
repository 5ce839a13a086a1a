#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds and runs every test, then the fault tests (damaged and hostile input) under the sanitizers. Prints each skipped
# test with its reason and closes with "N passed, N failed, N skipped"; exits 1 if anything failed.
set -euo pipefail
cd "$(dirname "$0")/.."
results=$PWD/build/test-results
rm -rf "$results"
status=0

# run NAME PRESET [CTEST OPTION...]: CTest's report and the GoogleTest reports go to build/test-results/NAME
run() {
    local name=$1 preset=$2
    shift 2
    mkdir -p "$results/$name/gtest"
    GTEST_OUTPUT="xml:$results/$name/gtest/" \
        ctest --preset "$preset" --no-tests=error --output-junit "$results/$name/ctest.xml" "$@" || status=1
}

scripts/build.sh release
# The Python that reads a bundle without us: any that has msgpack.
for python in python3 /usr/bin/python3; do
    if "$python" -c 'import msgpack' 2>/dev/null; then export POLYAD_TEST_PYTHON=$python; break; fi
done
run release release

mapfile -t faults < <(cd tests/faults && for file in *_test.cpp; do echo "${file%.cpp}"; done)
scripts/build.sh asan "${faults[@]}"
run sanitizers asan -R "^($(IFS='|'; echo "${faults[*]}"))\$"

python3 scripts/summarise_tests.py "$results" || status=1
exit $status
