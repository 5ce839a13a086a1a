#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# gpu_carry.sh FOLDER: gathers what scripts/gpu_check.sh needs on a machine that has a GPU, nvcc, cmake, ninja, g++ and
# a Python with PyTorch, but no network and no Rust: headers and the test framework, the tokenizer's static library, and
# the fixtures (a few megabytes in all). Run it where the project is built; carry FOLDER beside the sources.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: gpu_carry.sh FOLDER}
shared=${POLYAD_SHARED_DIR:-../shared}
rust=build/cargo/release/libpolyad_text_rust.a
[[ -e $rust ]] || { echo "gpu_carry: $rust is missing: run make build first" >&2; exit 1; }

rm -rf "$out"
mkdir -p "$out/prefix/include" "$out/prefix/lib" "$out/shared"
copy_headers() { (cd /usr/include && tar cf - "$@") | tar xf - -C "$out/prefix/include"; }
copy_headers CLI gtest nlohmann msgpack msgpack.hpp
# Of Boost only what msgpack's header really includes.
printf '#include <msgpack.hpp>\n' | g++ -std=c++20 -M -x c++ - | tr ' \\' '\n\n' | sed -n 's|^/usr/include/\(boost/.*\)|\1|p' |
    sort -u >"$out/boost.list"
(cd /usr/include && tar cf - -T -) <"$out/boost.list" | tar xf - -C "$out/prefix/include"
rm "$out/boost.list"
for folder in /usr/share/cmake/nlohmann_json /usr/share/cmake/CLI11 /usr/lib/x86_64-linux-gnu/cmake/GTest; do
    mkdir -p "$out/prefix/${folder#/usr/}"
    cp -r "$folder/." "$out/prefix/${folder#/usr/}/"
done
cp /usr/lib/x86_64-linux-gnu/libg{test,mock}*.a "$out/prefix/lib/x86_64-linux-gnu/"
strip --strip-debug -o "$out/prefix/lib/libpolyad_text_rust.a" "$rust"

for part in fixtures/models fixtures/gguf fixtures/peft golden; do
    [[ -e $shared/$part ]] || continue
    mkdir -p "$out/shared/$(dirname $part)"
    cp -r "$shared/$part" "$out/shared/$part"
done
du -sh "$out" | sed 's/^/gpu_carry: /'
