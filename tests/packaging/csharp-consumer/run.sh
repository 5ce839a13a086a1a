#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# run.sh PACKAGES VERSION RID DOTNET MODEL: compiles Consumer.cs against the unpacked package in PACKAGES/polyad/VERSION and runs it with an
# empty environment, in the ways a program meets the package: on Mono with the assembly where it lies; on Mono and .NET from a publish; on
# .NET from the package cache, by a list of dependencies as the SDK writes it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
packages=$1 version=$2 rid=$3 dotnet=$4 model=$5
package=$packages/polyad/$version
[[ -e $model ]] || model= # loads the library only
surface=/usr/lib/mono/4.7.1-api
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/cached"
cd "$work/cached"
# No System.Memory.dll: only who uses Span needs it.
mcs -nologo -noconfig -nostdlib -out:Consumer.exe -r:"$package/lib/netstandard2.0/Polyad.dll" -r:"$surface/Facades/netstandard.dll" \
    -r:"$surface/Facades/System.Runtime.InteropServices.RuntimeInformation.dll" -r:"$surface/mscorlib.dll" -r:"$surface/System.dll" -r:"$surface/System.Core.dll" "$here/Consumer.cs"
printf '{"runtimeOptions": {"framework": {"name": "Microsoft.NETCore.App", "version": "3.1.0"}, "rollForward": "Major", "configProperties": {"System.Globalization.Invariant": true}}}\n' \
    >Consumer.runtimeconfig.json
cp -R . "$work/published"
cp -R "$package/lib/netstandard2.0/Polyad.dll" "$package/runtimes" "$work/published/"
python3 - "$package" "$version" "$rid" >Consumer.deps.json <<'PYTHON'
import json, os, sys
package, version, rid = sys.argv[1:]
native = f"runtimes/{rid}/native"
polyad = {"runtime": {"lib/netstandard2.0/Polyad.dll": {"assemblyVersion": version + ".0", "fileVersion": version + ".0"}},
          "runtimeTargets": {f"{native}/{name}": {"rid": rid, "assetType": "native"} for name in sorted(os.listdir(os.path.join(package, native)))}}
framework = ".NETCoreApp,Version=v3.1"
json.dump({"runtimeTarget": {"name": framework},
           "targets": {framework: {"Consumer/1.0.0": {"dependencies": {"Polyad": version}, "runtime": {"Consumer.exe": {}}}, "Polyad/" + version: polyad}},
           "libraries": {"Consumer/1.0.0": {"type": "project", "serviceable": False, "sha512": ""},
                         "Polyad/" + version: {"type": "package", "serviceable": True, "sha512": "", "path": "polyad/" + version}}}, sys.stdout)
PYTHON

use() { # HOW LIBRARIES COMMAND...: runs it, checks what it printed and where the libraries came from
    local how=$1 libraries=$2
    shift 2
    echo "package: C#, $how"
    mkdir -p "$work/home"
    env -i HOME="$work/home" PATH=/usr/bin:/bin "$@" ${model:+"$model"} | tee "$work/output"
    grep -q '^polyad [0-9]' "$work/output"
    if [[ -n $model ]]; then grep -qx 'up: up' "$work/output" && grep -qx 'down: down' "$work/output"; fi
    for name in libpolyad_csharp libtorch_cpu; do
        grep -qx "library $(realpath "$libraries")/$name.so" "$work/output" ||
            { echo "package: $name was loaded from elsewhere" >&2; exit 1; }
    done
}
use "Mono, the assembly where it was unpacked" "$package/runtimes/$rid/native" \
    env MONO_PATH="$package/lib/netstandard2.0" mono "$work/cached/Consumer.exe"
use "Mono, published" "$work/published/runtimes/$rid/native" mono "$work/published/Consumer.exe"
[[ -x $dotnet ]] || { echo "package: no .NET here, the package is tried on Mono only"; exit 0; }
use ".NET, published" "$work/published/runtimes/$rid/native" "$dotnet" "$work/published/Consumer.exe"
use ".NET, from the package cache" "$package/runtimes/$rid/native" \
    "$dotnet" exec --additionalprobingpath "$packages" "$work/cached/Consumer.exe"
