#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# java.sh tests|virtual_threads POM MAVEN_REPOSITORY BUILD_DIR OPTIONS...: runs the Java binding's tests, or those of virtual threads on
# a JDK that has them (POLYAD_JAVA21 names its folder). Without the network where everything was fetched before. 77 = skipped.
set -eu
what=$1 pom=$2 repository=$3 build=$4
shift 4
command -v javac >/dev/null || { echo "skipped: no JDK (javac) found"; exit 77; }
command -v mvn >/dev/null || { echo "skipped: Maven (mvn) not found"; exit 77; }
mkdir -p "$repository"
reports=$build/target/surefire-reports
rm -rf "$reports"
# Without colours, so that a report can be read; the tests themselves print nothing.
maven() { mvn -B -q -f "$pom" -Dmaven.repo.local="$repository" -Dpolyad.build="$build" "$@"; }
marker=$repository/.complete-$(cksum <"$pom" | tr ' ' '-')
offline=
[ -e "$marker" ] && offline=-o

if [ "$what" = virtual_threads ]; then
    newer=
    for home in "${POLYAD_JAVA21:-}" /usr/lib/jvm/*; do
        [ -x "$home/bin/java" ] || continue
        version=$("$home/bin/java" -XshowSettings:properties -version 2>&1 | sed -n 's/^ *java.specification.version = //p')
        case $version in 1.*) continue ;; esac
        [ "${version:-0}" -ge 21 ] && newer=$home && break
    done
    [ "$newer" ] || { echo "skipped: no Java 21 or newer found (POLYAD_JAVA21 names its folder)"; exit 77; }
    # One carrier: whatever keeps it stops every other virtual thread.
    maven $offline test -Dtest=VirtualThreadTest -Djvm="$newer/bin/java" "$@" \
        -Dpolyad.jvm="-Djdk.virtualThreadScheduler.parallelism=1 -Djdk.virtualThreadScheduler.maxPoolSize=1 --enable-native-access=ALL-UNNAMED"
else
    maven $offline test "$@"
fi
: >"$marker"
# -Xcheck:jni speaks through the channel of the test run, which keeps what it does not understand in files.
if grep -rE 'WARNING in native method|FATAL ERROR in native method|WARNING: JNI' "$reports"; then
    echo "the JVM found a misuse of JNI"
    exit 1
fi
[ "$what" = tests ] || exit 0

# Javadoc without a warning, and a comment on everything public.
find "$(dirname "$pom")/src/main" "$build/generated" -name '*.java' >"$build/sources.txt"
javadoc -quiet -public -Xdoclint:all,-missing -Werror -d "$build/javadoc" @"$build/sources.txt"
if javadoc -quiet -public -Xdoclint:missing -d "$build/javadoc" @"$build/sources.txt" 2>&1 | grep 'no comment'; then
    echo "something public has no comment"
    exit 1
fi
