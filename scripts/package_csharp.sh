#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# package_csharp.sh FOLDER: makes the NuGet package, with the licence texts of an installed folder, and proves it: built twice it has the
# same bytes; unpacked the way NuGet lays packages out, in a folder with nothing else of Polyad, a program is compiled against it and run, with an empty environment, on Mono and on .NET. Called by scripts/package.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
source=$PWD
installed=$(realpath "$1")
for tool in mcs mono python3; do
    command -v "$tool" >/dev/null || { echo "package: C# is left out ($tool not found)"; exit 0; }
done
scripts/build.sh release polyad polyad_csharp polyad_csharp_assembly
version=$(sed -n 's/^project(polyad VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)
description=$(sed -n 's/^CMAKE_PROJECT_DESCRIPTION:STATIC=//p' build/release/CMakeCache.txt)
[[ $(uname -m) == x86_64 ]] && rid=linux-x64 || rid=linux-arm64
out=$source/build/package
build=$source/build/release/bindings/csharp
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# ---- what is in it ---------------------------------------------------------------------------------------------------
content=$work/content
native=$content/runtimes/$rid/native # names without version links: a package holds no links
mkdir -p "$native" "$content/lib/netstandard2.0"
cmake --install build/release --strip --prefix "$work/all" >/dev/null
cmake --install build/release --strip --prefix "$work/all" --component csharp >/dev/null
queue=(libpolyad_csharp.so)
while ((${#queue[@]})); do
    name=${queue[0]}
    queue=("${queue[@]:1}")
    [[ -e $work/all/lib/$name && ! -e $native/$name ]] || continue # the rest is the system's
    cp -L "$work/all/lib/$name" "$native/$name"
    mapfile -t needed < <(readelf -d "$native/$name" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
    queue+=("${needed[@]}")
done
cp "$build"/lib/netstandard2.0/Polyad.{dll,xml} "$content/lib/netstandard2.0/"
cp LICENSE NOTICE packaging/nuget/README.md "$content/"
cp "$installed/share/doc/polyad/LICENCES.txt" "$content/"
sed "s/@VERSION@/$version/; s/@DESCRIPTION@/$description/" packaging/nuget/Polyad.nuspec >"$content/Polyad.nuspec"

# ---- twice, with everything managed compiled again -------------------------------------------------------------------
package=$out/Polyad.$version.nupkg
python3 scripts/make_nupkg.py "$content" Polyad.nuspec "$package"
cp -R "$build/generated" "$build/AssemblyInfo.cs" "$work/"
sh bindings/csharp/compile/library.sh "$(sed -n 's/^POLYAD_MONO_LIBRARIES:PATH=//p' build/release/CMakeCache.txt)" "$work"
cp "$work"/lib/netstandard2.0/Polyad.{dll,xml} "$content/lib/netstandard2.0/"
touch "$content"/*
python3 scripts/make_nupkg.py "$content" Polyad.nuspec "$work/again.nupkg"
cmp "$package" "$work/again.nupkg" || { echo "package: the NuGet package is not the same twice" >&2; exit 1; }
rm -rf "$work/again.nupkg" "$work/all" "$content"

# ---- used from a clean folder ----------------------------------------------------------------------------------------
packages=$work/packages # as ~/.nuget/packages is
mkdir -p "$packages/polyad/$version"
python3 -m zipfile -e "$package" "$packages/polyad/$version"
rm -r "$packages/polyad/$version/_rels" "$packages/polyad/$version/[Content_Types].xml" # as NuGet does
tests/packaging/csharp-consumer/run.sh "$packages" "$version" "$rid" "$source/.deps/site/dotnetcore2/bin/dotnet" \
    "$(realpath -m ../shared/fixtures/gguf/tiny_llama.gguf)"

(cd "$packages/polyad/$version" && find . -name '*.so*' -o -name '*.dll' -o -name '*.xml' | xargs du -h | sort -h)
du -h "$package"
echo "package: $package, the same bytes when built twice, is used by a program elsewhere"
