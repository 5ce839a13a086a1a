#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# with_folder.sh FOLDER COMMAND...: runs the command, or says that FOLDER is missing and exits 77 (CTest: skipped).
folder=$1
shift
if [ ! -d "$folder" ]; then
    echo "skipped: folder $folder is missing"
    exit 77
fi
exec "$@"
