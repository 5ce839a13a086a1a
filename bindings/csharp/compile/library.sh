#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# library.sh MONO_LIBRARIES BUILD_FOLDER: Polyad.dll and Polyad.xml into BUILD_FOLDER/lib/netstandard2.0, from BUILD_FOLDER/generated,
# BUILD_FOLDER/AssemblyInfo.cs and the public layer in ../src. Beside them System.Memory.dll twice: reference/ for the
# compiler, mono/ for running on a Mono without NuGet. The same sources give the same bytes.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mono=$1
out=$2
cecil=$(ls "$mono"/gac/Mono.Cecil/0.11*/Mono.Cecil.dll)
cd "$out"
mkdir -p raw tool reference mono lib/netstandard2.0

cp "$cecil" tool/
mcs -nologo -langversion:7.2 -r:"$cecil" -out:tool/NetStandard.exe "$here/NetStandard.cs"
mcs -nologo -langversion:7.2 -target:library -out:raw/System.Memory.dll "$here/SystemMemory.Mono.cs"
mono tool/NetStandard.exe public-key raw/System.Memory.dll mono/System.Memory.dll

surface=$mono/4.7.1-api
framework="-nologo -langversion:7.2 -noconfig -nostdlib -r:$surface/mscorlib.dll -r:$surface/System.dll -r:$surface/System.Core.dll"
# shellcheck disable=SC2086
mcs $framework -target:library -out:raw/System.Memory.dll "$here/SystemMemory.Reference.cs"
mono tool/NetStandard.exe public-key raw/System.Memory.dll reference/System.Memory.dll
# A public member without documentation is an error (1591 and kin); the generated layer has none and is internal.
# shellcheck disable=SC2086
mcs $framework -target:library -unsafe -warn:4 -warnaserror -doc:raw/Polyad.xml -out:raw/Polyad.dll -r:reference/System.Memory.dll \
    -r:"$surface/Facades/System.Runtime.InteropServices.RuntimeInformation.dll" generated/*.cs AssemblyInfo.cs "$here"/../src/*.cs
mono tool/NetStandard.exe retarget raw/Polyad.dll lib/netstandard2.0/Polyad.dll "$surface/Facades/netstandard.dll"
mv raw/Polyad.xml lib/netstandard2.0/
