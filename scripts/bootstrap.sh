#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Brings a Debian 12 machine to where CMake can start: packages by apt, LibTorch and the models by pip, crates by cargo.
# Everything fetched is checked by hash and kept in .deps/ (crates: cargo's own cache); a second run does nothing.
#
#   scripts/bootstrap.sh          what `make demo` and `make test` need
#   scripts/bootstrap.sh --dev    and clang-format, clang-tidy for `make format`, `make lint`
#
# Environment:
#   POLYAD_LIBTORCH    a LibTorch 2.11 folder of your own (CMAKE_PREFIX_PATH counts too); the pinned one is not fetched
#   POLYAD_SKIP_APT    1 = do not look at Debian packages at all (another distribution; you installed them yourself)
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'bootstrap: %s\n' "$*"; }
die() { printf 'bootstrap: %s\n' "$*" >&2; exit 1; }

packages=(
    build-essential cmake ninja-build pkg-config git ccache ca-certificates
    python3 python3-pip python3-venv python3-msgpack
    libmsgpack-cxx-dev nlohmann-json3-dev libcli11-dev libgtest-dev libgmock-dev libbenchmark-dev
    wordnet-base iso-codes zstd
    swig openjdk-17-jdk-headless maven mono-devel abigail-tools
)
[[ ${1:-} == --dev ]] && packages+=(clang-format clang-tidy)

# ---- Rust: any cargo that is new enough, else Debian's backport for web browsers -------------------------------------
minimum_cargo=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' cpp_impl/text/rust/Cargo.toml)
cargo_is_new_enough() {
    local have
    have=$(cargo --version 2>/dev/null | cut -d' ' -f2) || return 1
    [[ -n $have && $(printf '%s\n%s\n' "$minimum_cargo" "$have" | sort -V | head -n1) == "$minimum_cargo" ]]
}
cargo_is_new_enough || packages+=(rustc-web cargo-web)

# ---- Go: any that is new enough, else Debian's ---------------------------------------------------------------------
minimum_go=1.19
have_go=$(go env GOVERSION 2>/dev/null | sed 's/^go//') || have_go=
[[ -n $have_go && $(printf '%s\n%s\n' "$minimum_go" "$have_go" | sort -V | head -n1) == "$minimum_go" ]] || packages+=(golang-go)

# ---- Debian packages -------------------------------------------------------------------------------------------------
if [[ ${POLYAD_SKIP_APT:-0} != 1 ]]; then
    command -v dpkg-query >/dev/null ||
        die "this is not Debian: install the counterparts of '${packages[*]}' and set POLYAD_SKIP_APT=1"
    installed=$(dpkg-query -W -f='${db:Status-Abbrev}${Package}\n' 2>/dev/null | sed -n 's/^ii *//p')
    missing=()
    for package in "${packages[@]}"; do
        grep -qxF "$package" <<<"$installed" || missing+=("$package")
    done
    if ((${#missing[@]})); then
        if ((EUID == 0)); then as_root=(env)
        elif sudo -n true 2>/dev/null; then as_root=(sudo -n env)
        else
            printf 'bootstrap: these Debian packages are missing, and installing them needs root:\n\n' >&2
            printf '    sudo apt-get install --no-install-recommends %s\n\n' "${missing[*]}" >&2
            exit 1
        fi
        say "installing ${missing[*]}"
        mkdir -p .deps
        for attempt in update install; do
            arguments=(apt-get -qq update)
            [[ $attempt == install ]] &&
                arguments=(apt-get -qq -o Dpkg::Use-Pty=0 install --no-install-recommends -y "${missing[@]}")
            "${as_root[@]}" DEBIAN_FRONTEND=noninteractive "${arguments[@]}" >.deps/apt.log 2>&1 ||
                { tail -n 20 .deps/apt.log >&2; die "'${arguments[*]}' failed; the whole log is .deps/apt.log"; }
        done
        hash -r
    fi
fi
cargo_is_new_enough || die "no cargo >= $minimum_cargo found (Debian: rustc-web cargo-web; or rustup)"

# ---- LibTorch, nvcc and the models -----------------------------------------------------------------------------------------
own_libtorch=
if [[ -n ${POLYAD_LIBTORCH:-} ]]; then
    own_libtorch=$POLYAD_LIBTORCH
else
    IFS=:\; read -ra prefixes <<<"${CMAKE_PREFIX_PATH:-}"
    for prefix in ${prefixes[@]+"${prefixes[@]}"}; do
        [[ -e $prefix/lib/libtorch_cpu.so ]] && own_libtorch=$prefix
    done
fi
[[ -z $own_libtorch || -e $own_libtorch/lib/libtorch_cpu.so ]] || die "$own_libtorch has no lib/libtorch_cpu.so"

find_wheel() {  # the file in .deps/wheels with this hash
    local file hash
    for file in .deps/wheels/"${1//-/_}"-*.whl; do
        [[ -e $file ]] || continue
        hash=$(sha256sum "$file")
        [[ ${hash%% *} == "$2" ]] && { printf '%s\n' "$file"; return; }
    done
    return 1
}

fetch() {  # one line of wheels.txt
    local python=python3
    "$python" -m pip --version >/dev/null 2>&1 || python=/usr/bin/python3
    "$python" -m pip --version >/dev/null 2>&1 || die "python3 has no pip (Debian: python3-pip)"
    printf '%s\n' "$1" >.deps/requirement.txt
    # The tags are those of the pinned files, so that any Python 3 can fetch them.
    "$python" -m pip --quiet --disable-pip-version-check download --no-deps --require-hashes --dest .deps/wheels \
        --only-binary=:all: --implementation cp --python-version 3.11 --abi cp311 --abi none \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform manylinux1_x86_64 \
        -r .deps/requirement.txt || die "could not fetch '${1%% *}'"
    rm -f .deps/requirement.txt
}

mkdir -p .deps/wheels .deps/site .deps/stamps
# What is kept of a wheel may change: a stamp names the rules it was unpacked by.
unpacker=$(sha256sum scripts/unpack_wheel.py)
unpacker=${unpacker%% *}
while read -r requirement hash_option; do
    [[ -z $requirement || $requirement == \#* ]] && continue
    name=${requirement%%==*} version=${requirement##*==} hash=${hash_option#--hash=sha256:}
    [[ -n $own_libtorch && $name =~ ^(torch|nvidia-.*)$ ]] && continue
    [[ $name == dotnetcore2 && $(uname -m) != x86_64 ]] && continue # the C# tests then run on Mono only
    grep -qs "$unpacker" ".deps/stamps/$hash" && continue
    [[ $(uname -m) == x86_64 || ! $name =~ ^(torch|nvidia-.*)$ ]] ||
        die "the pinned LibTorch is for x86_64; give your own with POLYAD_LIBTORCH=DIR"
    if ! wheel=$(find_wheel "$name" "$hash"); then
        say "fetching $name $version"
        fetch "$requirement $hash_option"
        wheel=$(find_wheel "$name" "$hash") || die "$requirement: the file fetched does not have the pinned hash"
    fi
    say "unpacking $name $version"
    python3 scripts/unpack_wheel.py "$wheel" .deps/site
    printf '%s %s %s\n' "$name" "$version" "$unpacker" >".deps/stamps/$hash"
done <scripts/wheels.txt

# ---- Rust crates (cargo checks them against Cargo.lock) --------------------------------------------------------------
lock=cpp_impl/text/rust/Cargo.lock
stamp=$(sha256sum "$lock")
stamp=.deps/stamps/crates-${stamp%% *}
if [[ ! -e $stamp ]]; then
    say "fetching Rust crates"
    cargo fetch --quiet --locked --target "$(rustc -vV | sed -n 's/^host: //p')" \
        --manifest-path cpp_impl/text/rust/Cargo.toml
    : >"$stamp"
fi
