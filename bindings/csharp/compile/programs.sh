#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# programs.sh MONO_LIBRARIES BUILD_FOLDER: the tests, the samples and the README's C# example, compiled against Polyad.dll in
# BUILD_FOLDER/lib/netstandard2.0 into BUILD_FOLDER/programs. Each runs on Mono (MONO_PATH=BUILD_FOLDER/mono) and on .NET.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
surface=$1/4.7.1-api
build=$2
mkdir -p "$build/programs"
cd "$build/programs"
cp "$build/lib/netstandard2.0/Polyad.dll" .

program() { # NAME SOURCE...
    name=$1
    shift
    mcs -nologo -langversion:7.2 -noconfig -nostdlib -warn:4 -warnaserror -out:"$name.exe" -r:Polyad.dll \
        -r:"$build/reference/System.Memory.dll" -r:"$surface/Facades/netstandard.dll" -r:"$surface/Facades/System.Runtime.dll" \
        -r:"$surface/mscorlib.dll" -r:"$surface/System.dll" -r:"$surface/System.Core.dll" "$@"
    cat >"$name.runtimeconfig.json" <<'JSON'
{
  "runtimeOptions": {
    "framework": {"name": "Microsoft.NETCore.App", "version": "3.1.0"},
    "rollForward": "Major",
    "configProperties": {"System.Globalization.Invariant": true}
  }
}
JSON
}

for source in "$root"/samples/csharp/*.cs; do
    program "$(basename "$source" .cs)" "$source"
done
program Worker "$root"/samples/dotnet-worker/*.cs
# The example is the inside of an asynchronous method, as the README shows it.
{
    printf 'using System;\nusing System.Threading;\nusing System.Threading.Tasks;\nusing Polyad;\n\nstatic class Readme\n{\n'
    printf 'static void Main() => Run(CancellationToken.None).Wait();\nstatic async Task Run(CancellationToken cancellationToken)\n{\n'
    awk '/^```csharp$/ { on = 1; next } /^```$/ { on = 0 } on' "$root/README.md"
    printf '}\n}\n'
} >Readme.cs
grep -q Backbone Readme.cs || { echo "README.md has no C# example" >&2; exit 1; }
program Readme Readme.cs
program PolyadTests "$here"/../test/*.cs
