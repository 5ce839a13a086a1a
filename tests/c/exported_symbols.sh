#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# exported_symbols.sh LIBRARY HEADER: the library exports exactly the functions the header declares.
set -eu
exported=$(nm -D --defined-only "$1" | awk '$2 ~ /^[A-Z]$/ && $3 !~ /^POLYAD_/ {sub(/@.*/, "", $3); print $3}' | sort -u)
declared=$(grep -oE '\bpolyad_[a-z0-9_]+\(' "$2" | tr -d '(' | sort -u)
# Names in the header's comments and function-pointer types are not functions of the library.
declared=$(printf '%s\n' "$declared" | while read -r name; do
    if grep -qE "^(POLYAD_API|POLYAD_API POLYAD_MUST_USE).*[ *]$name\(" "$2"; then echo "$name"; fi
done)
[ -n "$declared" ] || { echo "no declarations found in $2"; exit 1; }
if [ "$exported" = "$declared" ]; then
    echo "$(printf '%s\n' "$declared" | wc -l) functions, all exported and nothing else"
    exit 0
fi
echo "declared but not exported:"
printf '%s\n' "$declared" | while read -r n; do printf '%s\n' "$exported" | grep -qx "$n" || echo "  $n"; done
echo "exported but not declared:"
printf '%s\n' "$exported" | while read -r n; do printf '%s\n' "$declared" | grep -qx "$n" || echo "  $n"; done
exit 1
