#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# package_go.sh FOLDER: the Go module as an archive (package.sh calls it with the installed folder), and its proof: a program in a clean folder
# uses the unpacked module through a replace line, once linked through pkg-config to the library of FOLDER, once finding it at run time.
set -euo pipefail
cd "$(dirname "$0")/.."
installed=$(cd "$1" && pwd)
command -v go >/dev/null || { echo "package: no Go found, its module is left out"; exit 0; }
version=$(sed -n 's/^project(polyad VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)
scripts/build.sh release polyad_go
archive=$PWD/build/package/polyad-go-$version.tar.zst
tar -C build/release/bindings/go --exclude '*_test.go' --sort=name --owner=0 --group=0 --mtime=@0 --zstd -cf "$archive" polyad

proof=$(mktemp -d)
trap 'chmod -R u+w "$proof"; rm -rf "$proof"' EXIT
tar -C "$proof" --zstd -xf "$archive"
mkdir "$proof/consumer"
cp samples/go/inspect_bundle/main.go "$proof/consumer/"
cd "$proof/consumer"
export GOFLAGS=-mod=mod GOPROXY=off GOTOOLCHAIN=local CGO_ENABLED=1 PKG_CONFIG_PATH=$installed/lib/pkgconfig
unset LD_LIBRARY_PATH POLYAD_LIBRARY
go mod init consumer >/dev/null 2>&1
go mod edit -require polyad.dev/polyad@v0.0.0 -replace "polyad.dev/polyad=$proof/polyad"
# The flags that pkg-config gives for the run path are not on cgo's own list.
CGO_LDFLAGS_ALLOW='-Wl,-rpath.*' go build -tags polyad_link -o linked .
go build -o found .
said=$(./linked /nowhere 2>&1 || true)
[[ $said == *not_found* ]] || { echo "package: the linked Go program says: $said" >&2; exit 1; }
said=$(./found /nowhere 2>&1 || true)
[[ $said == *"system:"* ]] || { echo "package: without a library the Go program says: $said" >&2; exit 1; }
said=$(POLYAD_LIBRARY=$installed/lib ./found /nowhere 2>&1 || true)
[[ $said == *not_found* ]] || { echo "package: with POLYAD_LIBRARY the Go program says: $said" >&2; exit 1; }
echo "package: $archive ($(du -h "$archive" | cut -f1)) is used from a clean folder, linked and found at run time"
