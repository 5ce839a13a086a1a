#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# abi.sh SCRIPT LIBRARY OLD_LIBRARY: the interface is the baseline's; a library that lacks functions is noticed. 77 = skipped.
set -u
"$1" check "$2"
status=$?
[ $status = 0 ] || exit $status
[ -z "${3:-}" ] || ! "$1" check "$3" >/dev/null 2>&1 || { echo "a library without most functions passed"; exit 1; }
