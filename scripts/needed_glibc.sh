#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# needed_glibc.sh LIBRARY...: the oldest glibc that has every symbol these libraries ask for.
objdump -T "$@" 2>/dev/null | sed -n 's/.*(\{0,1\}GLIBC_\([0-9][0-9.]*\).*/\1/p' | sort -Vu | tail -n 1
