#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Lays out the release build as one relocatable folder, packs it, and proves it: unpacked somewhere else it builds a C program
# through pkg-config and runs it with nothing of this checkout on the path.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/build.sh release polyad polyad-cli
version=$(sed -n 's/^project(polyad VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)
name=polyad-$version-linux-$(uname -m)
out=$PWD/build/package
rm -rf "$out"
cmake --install build/release --strip --prefix "$out/$name" >/dev/null
python3 scripts/make_sbom.py "$out/$name/share/doc/polyad/"{polyad.spdx.json,LICENCES.txt}
tar -C "$out" --zstd -cf "$out/$name.tar.zst" "$name"

proof=$(mktemp -d)
trap 'rm -rf "$proof"' EXIT
tar -C "$proof" --zstd -xf "$out/$name.tar.zst"
export PKG_CONFIG_PATH=$proof/$name/lib/pkgconfig
read -ra flags <<<"$(pkg-config --cflags --libs polyad)"
cc -std=c99 samples/c/train_and_switch.c "${flags[@]}" -o "$proof/train_and_switch"
env -u LD_LIBRARY_PATH "$proof/$name/bin/polyad" --version
usage=$(env -u LD_LIBRARY_PATH "$proof/train_and_switch" 2>&1 || true)  # without arguments it says how to call it
[[ $usage == usage:* ]] || { echo "package: the C program does not run: $usage" >&2; exit 1; }
cp -r tests/packaging/cpp-consumer "$proof/consumer"
cp samples/c/train_and_switch.c "$proof/consumer/"
cmake -S "$proof/consumer" -B "$proof/consumer/build" -DCMAKE_PREFIX_PATH="$proof/$name" >"$proof/log" 2>&1 &&
    cmake --build "$proof/consumer/build" >>"$proof/log" 2>&1 || { cat "$proof/log" >&2; exit 1; }
env -u LD_LIBRARY_PATH "$proof/consumer/build/consumer" >/dev/null || { echo "package: the CMake consumer fails" >&2; exit 1; }
echo "package: the archive needs glibc $(scripts/needed_glibc.sh "$out/$name"/lib/*.so*) or newer"
du -h "$out/$name"/lib/*.so* "$out/$name.tar.zst" | sort -h
echo "package: $out/$name.tar.zst builds and runs a C program from another folder"

scripts/package_deb.sh "$out/$name"
scripts/package_go.sh "$out/$name"
scripts/package_java.sh "$out/$name"
scripts/package_csharp.sh "$out/$name"
