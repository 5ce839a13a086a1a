#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# java_service.sh SOURCE_DIR BUILD_DIR MODEL.gguf: compiles samples/java-service with the JDK alone and loads it over the loopback.
# POLYAD_LOAD_SECONDS (10) and POLYAD_LOAD_CLIENTS (8) make it longer or wider. 77 = skipped.
set -eu
source=$1 build=$2 model=$3
command -v javac >/dev/null || { echo "skipped: no JDK (javac) found"; exit 77; }
[ -e "$model" ] || { echo "skipped: no model at $model"; exit 77; }
classes=$build/service
rm -rf "$classes"
find "$source/bindings/java/src/main" "$build/generated" "$source/samples/java-service/src" -name '*.java' >"$build/service-sources.txt"
javac -nowarn --release 17 -d "$classes" @"$build/service-sources.txt"
exec java -cp "$classes" dev.polyad.samples.service.LoadTest "$model" "${POLYAD_LOAD_SECONDS:-10}" "${POLYAD_LOAD_CLIENTS:-8}" \
    "${POLYAD_LOAD_STEPS:-60}" ${POLYAD_LOAD_ROWS:-} -- -Xms192m -Xmx192m -XX:+AlwaysPreTouch \
    -Dpolyad.library="$build" -cp "$classes"
