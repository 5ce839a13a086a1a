#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""make_module.py GENERATED OUT: puts the Go module together: the hand-written sources, what SWIG generated (folder GENERATED), and the
header with its list of functions."""
import pathlib
import re
import shutil
import sys

here = pathlib.Path(__file__).resolve().parent
root = here.parent.parent
generated, out = map(pathlib.Path, sys.argv[1:])
native = out / "internal" / "native"


def put(path, text):
    """Written only when it changes, so that Go's cache stays good."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


header = (root / "capi/include/polyad/polyad.h").read_text()
code = re.sub(r"/\*.*?\*/", "", header, flags=re.S)
functions = re.findall(r"^POLYAD_API[^;(]*?\b(polyad_\w+)\(", code, flags=re.M)

wanted = {}
for file in sorted(here.rglob("*")):
    if file.suffix in (".go", ".mod", ".c", ".h", ".md"):
        wanted[out / file.relative_to(here)] = file.read_text()
swig = (generated / "Native.go").read_text()
# SWIG 4.1 keeps a C address as an integer there, which `go vet` rightly dislikes.
for old, new in (("struct { p uintptr; n int }", "struct { p unsafe.Pointer; n int }"),
                 ("string((*[0x7fffffff]byte)(unsafe.Pointer(p.p))[:p.n])", "string(unsafe.Slice((*byte)(p.p), p.n))"),
                 ("Swig_free(p.p)", "Swig_free(uintptr(p.p))")):
    swig = swig.replace(old, new)
wanted[native / "swig.go"] = swig
wanted[native / "polyad_go.c"] = (generated / "polyad_go.c").read_text()
wanted[native / "support.h"] = (root / "bindings/support.h").read_text()
wanted[native / "include/polyad_header.h"] = header
wanted[native / "include/polyad_functions.h"] = "".join(f"POLYAD_FUNCTION({name})\n" for name in functions)
wanted[native / "include/polyad_redirect.h"] = "".join(f"#define {name} polyad_go_table.{name}\n" for name in functions)
wanted[out / "LICENSE"] = (root / "LICENSE").read_text()
for path, text in wanted.items():
    put(path, text)
for path in sorted(out.rglob("*"), reverse=True):  # what is no longer there
    if path.is_file() and path not in wanted:
        path.unlink()
