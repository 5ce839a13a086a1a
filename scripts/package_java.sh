#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# package_java.sh FOLDER: makes the Java packages, with the licence texts of an installed folder, and proves them: the jar, the jar with the
# native library for this platform (its classifier), sources and Javadoc, in a Maven repository of their own (build/package/maven). A small Maven project in another folder, whose only source of
# Polyad is that repository, is then built and run with an empty environment. Called by scripts/package.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
source=$PWD
installed=$(realpath "$1")
for tool in mvn javac jar; do
    command -v "$tool" >/dev/null || { echo "package: Java is left out ($tool not found)"; exit 0; }
done
scripts/build.sh release polyad polyad_java
platform=linux-$(uname -m)
out=$source/build/package
build=$source/build/release/bindings/java
repository=$out/maven
# What Maven fetches is shared with the tests; what this makes stays out of it.
deps=$source/.deps/m2
mkdir -p "$deps" "$out"
maven() { mvn -B -q -Dstyle.color=never "$@"; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# ---- the native library and what it needs, beside each other ---------------------------------------------------------
cmake --install build/release --strip --prefix "$work/all" >/dev/null
cmake --install build/release --strip --prefix "$work/all" --component java >/dev/null
folder=$work/jar/dev/polyad/native/$platform
mkdir -p "$folder" "$work/jar/META-INF"
queue=(libpolyad_java.so)
while ((${#queue[@]})); do
    name=${queue[0]}
    queue=("${queue[@]:1}")
    [[ -e $work/all/lib/$name && ! -e $folder/$name ]] || continue # the rest is the system's
    cp -L "$work/all/lib/$name" "$folder/$name"
    mapfile -t needed < <(readelf -d "$folder/$name" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
    queue+=("${needed[@]}")
done
(cd "$folder" && find . -maxdepth 1 -name '*.so*' -printf '%f\n' | LC_ALL=C sort | xargs sha256sum >files.txt)
cp LICENSE NOTICE "$work/jar/META-INF/"
cp "$installed/share/doc/polyad/LICENCES.txt" "$work/jar/META-INF/"
printf 'Automatic-Module-Name: dev.polyad.natives.%s\n' "${platform//-/.}" >"$work/manifest"
rm -rf "$repository"
jar --create --file "$work/native.jar" --manifest "$work/manifest" --date 2026-01-01T00:00:00Z -C "$work/jar" .

# ---- the packages ----------------------------------------------------------------------------------------------------
maven -f bindings/java/pom.xml -Dmaven.repo.local="$deps" -Dmaven.test.skip=true -Dpolyad.build="$build" -Dpolyad.native="$work/native.jar" \
    -Dpolyad.platform="$platform" -DaltDeploymentRepository="polyad::file://$repository" deploy
rm -rf "$deps/dev/polyad"

# ---- used from a clean folder ----------------------------------------------------------------------------------------
cp -R tests/packaging/java-consumer "$work/consumer"
maven -f "$work/consumer/pom.xml" -Dmaven.repo.local="$deps" -Dpolyad.repository="file://$repository" \
    -Dpolyad.platform="$platform" package
cp -R samples/java-service "$work/service"
rm -rf "$work/service/target"
maven -f "$work/service/pom.xml" -Dmaven.repo.local="$deps" -Dpolyad.repository="file://$repository" \
    -Dpolyad.platform="$platform" package
cp -R "$deps/dev/polyad" "$work/taken"
rm -rf "$deps/dev/polyad"
[[ -n $(find "$work/taken" -name "polyad-*-$platform.jar") ]] || { echo "package: the consumer took no native jar" >&2; exit 1; }
model=$(realpath -m ../shared/fixtures/gguf/tiny_llama.gguf)
[[ -e $model ]] || model= # loads the library only
java=$(readlink -f "$(command -v java)")
consumer() { # OPTIONS...: runs it, checks what it printed
    (cd "$work/consumer" && env -i XDG_CACHE_HOME="$work/cache" "$java" "$@" app.Consumer ${model:+"$model"}) | tee "$work/output"
    grep -q '^polyad [0-9]' "$work/output"
    if [[ -n $model ]]; then grep -qx 'up: up' "$work/output" && grep -qx 'down: down' "$work/output"; fi
    grep -q "^library $work/cache/polyad/[0-9a-f]*/libtorch_cpu.so" "$work/output"
    if grep '^library ' "$work/output" | grep -vq "^library $work/cache/"; then
        echo "package: a library was loaded from outside the jar" >&2
        exit 1
    fi
}
libraries=$(find "$work/consumer/target/libraries" -name '*.jar' | paste -sd:)
echo "package: a Maven project elsewhere, class path"
consumer -cp "$work/consumer/target/consumer.jar:$libraries"
echo "package: the same, module path"
consumer -p "$libraries" --add-modules ALL-MODULE-PATH -cp "$work/consumer/target/consumer.jar" >/dev/null

if [[ -n $model ]]; then
    echo "package: samples/java-service on the packages, under load for some seconds"
    path=$work/service/target/service.jar:$(find "$work/service/target/libraries" -name '*.jar' | paste -sd:)
    env -i XDG_CACHE_HOME="$work/cache" "$java" -cp "$path:$work/service/target/test-classes" dev.polyad.samples.service.LoadTest \
        "$model" 3 4 60 -- -Xms192m -Xmx192m -XX:+AlwaysPreTouch -cp "$path"
fi

find "$repository" -name '*.jar' -exec du -h {} + | sort -h
(cd "$folder" && du -h ./* | sort -h)
echo "package: $repository holds the Java packages"
