#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# package_deb.sh FOLDER: makes a Debian package of an installed folder (package.sh calls it), and proves it: unpacked, its command
# line and a C program built against it run. LibTorch's share lies in /usr/lib/polyad, out of everybody's way.
set -euo pipefail
cd "$(dirname "$0")/.."
installed=$1
version=$(sed -n 's/^project(polyad VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)
triplet=$(gcc -print-multiarch)
architecture=$(dpkg --print-architecture)
package=build/package/polyad_${version}_$architecture.deb
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

root=$work/root
libraries=$root/usr/lib/$triplet
mkdir -p "$libraries"/{pkgconfig,cmake/Polyad} "$root"/usr/{bin,lib/polyad,include,share/doc/polyad} "$root/DEBIAN"
cp -P "$installed"/lib/libpolyad.so* "$libraries/"
find "$installed/lib" -maxdepth 1 -name '*.so*' ! -name 'libpolyad.so*' -exec cp -P {} "$root/usr/lib/polyad/" \;
cp -r "$installed/include/polyad" "$root/usr/include/"
cp "$installed/bin/polyad" "$root/usr/bin/"
sed -e "s|^prefix=.*|prefix=\${pcfiledir}/../../..|" -e "s|^libdir=.*|libdir=\${prefix}/lib/$triplet|" \
    -e 's|^Libs:.*|Libs: -L${libdir} -lpolyad -Wl,-rpath-link,${prefix}/lib/polyad|' \
    "$installed/lib/pkgconfig/polyad.pc" >"$libraries/pkgconfig/polyad.pc"
cp build/release/packaging/deb/PolyadConfig.cmake build/release/packaging/PolyadConfigVersion.cmake "$libraries/cmake/Polyad/"
cat LICENSE NOTICE >"$root/usr/share/doc/polyad/copyright"
cp "$installed"/share/doc/polyad/{polyad.spdx.json,LICENCES.txt} "$root/usr/share/doc/polyad/"
gzip -9n <CHANGELOG.md >"$root/usr/share/doc/polyad/changelog.gz"
glibc=$(scripts/needed_glibc.sh "$libraries/libpolyad.so.$version" "$root"/usr/lib/polyad/*.so*)
cat >"$root/DEBIAN/control" <<CONTROL
Package: polyad
Version: $version
Section: libs
Priority: optional
Architecture: $architecture
Maintainer: The Polyad authors <maintainers@polyad.dev>
Installed-Size: $(du -sk "$root/usr" | cut -f1)
Depends: libc6 (>= $glibc), libstdc++6 (>= 12), libgcc-s1, libgomp1
Description: train, mix, save and switch many small skills of one frozen transformer
 A shared library with a C interface, its header, and a command line. It
 brings LibTorch's CPU libraries in a folder of its own.
CONTROL
(cd "$root" && find usr -type f -exec md5sum {} + >DEBIAN/md5sums)
mkdir -p "$(dirname "$package")"
dpkg-deb --root-owner-group -Zzstd -z3 --build "$root" "$package" >/dev/null

unpacked=$work/unpacked
dpkg-deb -x "$package" "$unpacked"
prefix=$unpacked/usr
export LD_LIBRARY_PATH=$prefix/lib/$triplet  # where an installed system looks by itself
"$prefix/bin/polyad" --version >/dev/null
read -ra flags <<<"$(PKG_CONFIG_LIBDIR=$prefix/lib/$triplet/pkgconfig pkg-config --cflags --libs polyad)"
cc -std=c99 samples/c/inspect_bundle.c "${flags[@]}" -o "$work/inspect_bundle"
said=$("$work/inspect_bundle" /nowhere 2>&1 || true)
[[ $said == not_found:* ]] || { echo "package: the C program against the .deb says: $said" >&2; exit 1; }
cp -r tests/packaging/cpp-consumer "$work/source"
cp samples/c/train_and_switch.c "$work/source/"
cmake -S "$work/source" -B "$work/consumer" -DCMAKE_PREFIX_PATH="$prefix" >"$work/log" 2>&1 &&
    cmake --build "$work/consumer" >>"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
"$work/consumer/consumer" >/dev/null
echo "package: $package ($(du -h "$package" | cut -f1), $(du -sh "$prefix" | cut -f1) installed, glibc >= $glibc) builds and runs programs"
