#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fails where polyad.h and the bindings drift apart: check_bindings.py [FOLDER OF GENERATED SOURCES...]

Every function, struct field and enumerator of capi/include/polyad/polyad.h has to be used by the hand-written public layer of every
language that has one, under the name the generated layer gives it, or be listed in bindings/left_out.txt with a reason. Every handle type
and struct has to be known to bindings/polyad.i. In generated sources no parameter may have fallen back to a raw pointer.
"""
import fnmatch
import pathlib
import re
import sys

root = pathlib.Path(__file__).resolve().parent.parent
LANGUAGES = {  # folder of the public layer, its files, how the generated layer writes a function and a field
    "java": ("bindings/java/src/main", "*.java", lambda f: f, lambda f: rf"[sg]et{f[0].upper() + f[1:]}|set_{f}|add_{f}"),
    "csharp": ("bindings/csharp/src", "*.cs", lambda f: f, lambda f: rf"{f}|set_{f}|add_{f}"),
    "go": ("bindings/go", "*.go", lambda f: f[0].upper() + f[1:], lambda f: rf"[SG]et_?{f}|[SG]et{f[0].upper() + f[1:]}|Set_{f}|Add_{f}"),
}
COUNTS = re.compile(r"_(size|count)$")  # set together with the pointer they belong to


def read_header(text):
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    functions = re.findall(r"^POLYAD_API[^;(]*?\b(polyad_\w+)\(", text, flags=re.M)
    fields, enumerators = [], []
    for body, name in re.findall(r"typedef struct \w+ \{(.*?)\} (\w+);", text, flags=re.S):
        for declaration in filter(None, map(str.strip, body.split(";"))):
            for item in declaration.split(","):
                fields.append(f"{name}.{re.findall(r'[A-Za-z_]' + chr(92) + 'w*', item)[-1]}")
    for body in re.findall(r"typedef enum \w+ \{(.*?)\}", text, flags=re.S):
        enumerators += re.findall(r"\b(POLYAD_\w+)", body)
    structs = sorted({field.split(".")[0] for field in fields})
    opaque = [t for t in re.findall(r"typedef struct (\w+) \1;", text) if t not in structs]
    return functions, fields, enumerators, structs, opaque


def read_left_out(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            parts = line.split(None, 2)
            if len(parts) < 3:
                sys.exit(f"{path}:{number}: expected LANGUAGE NAME REASON")
            yield parts[0], parts[1]


def main():
    header = root / "capi/include/polyad/polyad.h"
    functions, fields, enumerators, structs, opaque = read_header(header.read_text())
    left_out = list(read_left_out(root / "bindings/left_out.txt"))
    interface = (root / "bindings/polyad.i").read_text()
    problems = []
    if len(functions) < 50 or len(fields) < 20 or len(enumerators) < 20:
        problems.append(f"{header}: only {len(functions)} functions, {len(fields)} fields, {len(enumerators)} enumerators understood")

    for name in opaque:
        if name not in ("polyad_status", "polyad_text") and f"MACRO({name})" not in interface:
            problems.append(f"handle type {name}: add MACRO({name}) to POLYAD_HANDLES in bindings/polyad.i")
    for name in structs:
        if f"%polyad_struct({name})" not in interface:
            problems.append(f"struct {name}: add %polyad_struct({name}) to bindings/polyad.i")

    used = set()
    checked = []
    for language, (folder, pattern, function_name, field_name) in LANGUAGES.items():
        files = [f for f in sorted((root / folder).rglob(pattern)) if "_test" not in f.name and "/internal/" not in f.as_posix()]
        if not files:
            continue
        checked.append(language)
        source = "\n".join(re.sub(r"//.*", "", f.read_text()) for f in files)

        def reached(name, expression):
            for key in left_out:
                if key[0] in ("all", language) and fnmatch.fnmatchcase(name, key[1]):
                    used.add(key)
                    return True
            return re.search(rf"(?<!\w)(?:{expression})(?!\w)", source, flags=re.I if "." in name else 0)

        for name in functions:
            if not reached(name, function_name(name)):
                problems.append(f"{language}: nothing in {folder} calls {function_name(name)}: add a method that does, or a line "
                                f"'{language} {name} REASON' to bindings/left_out.txt")
        for name in fields:
            if not COUNTS.search(name) and not reached(name, field_name(name.split(".")[1])):
                problems.append(f"{language}: nothing in {folder} uses the field {name}")
        for name in enumerators:
            if not reached(name, name if language != "go" else name.capitalize() + "|" + name):
                problems.append(f"{language}: nothing in {folder} uses the enumerator {name}")

    known = {language for language in checked} | {"all"}
    for key in left_out:
        if key[0] in known and key not in used:
            problems.append(f"bindings/left_out.txt: '{' '.join(key)}' matches nothing any more")
    for folder in sys.argv[1:]:
        for file in pathlib.Path(folder).rglob("*SWIGTYPE_*"):
            problems.append(f"{file.name} was generated: a parameter of that type has no mapping; give its name to an %apply list of "
                            "bindings/polyad.i")
    for problem in problems:
        print(problem)
    if not checked:
        sys.exit("no public layer found")
    print(f"{len(functions)} functions, {len(fields)} fields, {len(enumerators)} enumerators in {', '.join(checked)}: "
          f"{len(problems) or 'no'} problems")
    sys.exit(1 if problems else 0)


main()
