#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# java.sh POM MAVEN_REPOSITORY OPTIONS...: runs the Java binding's tests, without the network where everything was fetched before.
# 77 = skipped.
set -eu
pom=$1 repository=$2
shift 2
command -v javac >/dev/null || { echo "skipped: no JDK (javac) found"; exit 77; }
command -v mvn >/dev/null || { echo "skipped: Maven (mvn) not found"; exit 77; }
mkdir -p "$repository"
# Without colours, so that a report can be read; the tests themselves print nothing.
maven() { mvn -B -q -f "$pom" -Dmaven.repo.local="$repository" "$@"; }
marker=$repository/.complete-$(cksum <"$pom" | tr ' ' '-')
if [ -e "$marker" ]; then
    maven -o test "$@"
else
    maven test "$@"
    : >"$marker"
fi
