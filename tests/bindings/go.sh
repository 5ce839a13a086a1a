#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# go.sh SUITE SOURCE_DIR BUILD_DIR SHARED_DIR: the Go module's tests. 77 = skipped.
#   tests     go vet, the module's own tests, the samples
#   race      the same tests under the race detector, the long ones left out
#   service   samples/go-service under load
set -eu
suite=$1 source=$2 build=$3 shared=$4
minimum=1.19
command -v go >/dev/null || { echo "skipped: no Go found"; exit 77; }
version=$(go env GOVERSION | sed 's/^go//')
[ "$(printf '%s\n%s\n' "$minimum" "$version" | sort -V | head -n1)" = "$minimum" ] || { echo "skipped: Go $version is older than $minimum"; exit 77; }
model=$shared/fixtures/gguf/tiny_llama.gguf
export POLYAD_LIBRARY=$build/capi POLYAD_TEST_SHARED=$shared POLYAD_TEST_PARITY=$build/bindings/parity/bindings_parity
export POLYAD_TEST_OLD=$build/bindings/old CGO_ENABLED=1 GOTOOLCHAIN=local
export GOMODCACHE=$source/.deps/go GOFLAGS="-mod=readonly -modcacherw"
module=$build/bindings/go/polyad
# The replace lines of the samples point into build/release; other build trees give their own.
replaced() { sed "s|=> .*bindings/go/polyad|=> $module|" "$1/go.mod" >"$2/go.mod"; [ ! -e "$1/go.sum" ] || cp "$1/go.sum" "$2/go.sum"; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ -e "$model" ] || { echo "skipped: no model at $model"; exit 77; }
# Quiet where all is well, but every skipped test says why. Never from Go's cache, which does not see the shared library.
tested() { go test -count=1 -v "$@" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }; grep 'skipped: ' "$work/log" || true; grep '^ok' "$work/log"; }

case $suite in
tests)
    cd "$module"
    go vet ./...
    unformatted=$(gofmt -l "$source/bindings/go" "$source/samples/go" "$source/samples/go-service")
    [ -z "$unformatted" ] || { echo "not formatted by gofmt: $unformatted"; exit 1; }
    tested ./...
    mkdir "$work/bin"
    cd "$source/samples/go"
    replaced . "$work"
    go vet -modfile="$work/go.mod" ./...
    go build -modfile="$work/go.mod" -o "$work/bin" ./...
    # The README's example must compile as it stands there.
    mkdir "$work/readme"
    sed -n '/^```go$/,/^```$/p' "$source/README.md" | sed '/^```/d' >"$work/readme/main.go"
    if [ -s "$work/readme/main.go" ]; then
        cp "$work/go.mod" "$work/readme/"
        (cd "$work/readme" && go vet .)
    fi
    for task in up down; do
        for input in a b; do
            echo "{\"task\": \"$task\", \"instruction\": \"Say $task.\", \"input\": \"$input\", \"output\": \"$task\", \"split\": \"train\"}"
        done
    done >"$work/tasks.jsonl"
    "$work/bin/train_and_switch" "$model" "$work/tasks.jsonl" "$work/words.polyad" up c down c >"$work/out"
    grep -q "^step 20/20" "$work/out" && grep -q "^down: c -> " "$work/out" || { cat "$work/out"; exit 1; }
    "$work/bin/serve_mixed_batch" "$model" "$work/words.polyad" c up down >"$work/out"
    [ "$(grep -c "FinishReason:" "$work/out")" = 4 ] || { cat "$work/out"; exit 1; }
    "$work/bin/inspect_bundle" "$work/words.polyad" | grep -q '"method":"cpoly"'
    ! "$work/bin/inspect_bundle" "$work/tasks.jsonl" 2>"$work/out"
    grep -q bad_format "$work/out"
    ;;
race)
    cd "$module"
    echo 'package main; func main() {}' >"$work/main.go"
    go build -race -o "$work/race" "$work/main.go" 2>"$work/out" && "$work/race" 2>>"$work/out" ||
        { echo "skipped: this Go has no race detector here: $(tail -n 1 "$work/out")"; exit 77; }
    tested -race -run 'Answers|Contexts|Closing|Queue|Goroutines|Cancel|Log|Stress' ./...
    ;;
service)
    cd "$source/samples/go-service"
    replaced . "$work"
    go mod download -modfile="$work/go.mod" 2>"$work/out" || { echo "skipped: its modules cannot be fetched: $(tail -n 1 "$work/out")"; exit 77; }
    go vet -modfile="$work/go.mod" .
    go test -modfile="$work/go.mod" -count=1 -v .
    ;;
esac
