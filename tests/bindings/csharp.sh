#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# csharp.sh RUNTIME BUILD_FOLDER SHARED_FOLDER DEPS_FOLDER [TEST...]: runs the C# binding's tests, all or those whose names hold one of
# the words, on one runtime: mono, coreclr, or the same with a collector under stress: mono_gc, coreclr_gc. 77 = skipped.
set -eu
runtime=$1 build=$2 shared=$3 deps=$4
shift 4
export POLYAD_LIBRARY="$build" POLYAD_TEST_BUILD="$build" POLYAD_TEST_SHARED="$shared"
# Many threads that each start OpenMP's: waiting without spinning keeps them from stealing each other's cores.
export OMP_WAIT_POLICY=passive
case $runtime in
mono*)
    command -v mono >/dev/null || { echo "skipped: mono not found"; exit 77; }
    export MONO_PATH="$build/mono" # System.Memory.dll, which Debian's Mono lacks
    # A collection before every 25th allocation, and in a nursery so small that objects move often.
    [ "$runtime" = mono ] || export MONO_GC_DEBUG=collect-before-allocs=25 MONO_GC_PARAMS=nursery-size=256k
    set -- mono --debug "$build/programs/PolyadTests.exe" "$@"
    ;;
coreclr*)
    dotnet=$deps/dotnetcore2/bin/dotnet
    [ -x "$dotnet" ] || { echo "skipped: no .NET in $deps (scripts/bootstrap.sh fetches it)"; exit 77; }
    export DOTNET_SYSTEM_GLOBALIZATION_INVARIANT=1 # no ICU needed
    # A first generation of 64 KB, the least the runtime allows (in hexadecimal), and collections that stop all threads.
    [ "$runtime" = coreclr ] || export COMPlus_GCgen0size=10000 COMPlus_gcConcurrent=0
    set -- "$dotnet" "$build/programs/PolyadTests.exe" "$@"
    ;;
*)
    echo "usage: csharp.sh mono|mono_gc|coreclr|coreclr_gc BUILD_FOLDER SHARED_FOLDER DEPS_FOLDER [TEST...]" >&2
    exit 2
    ;;
esac
exec "$@"
