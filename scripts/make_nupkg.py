#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Packs a folder as a NuGet package: make_nupkg.py FOLDER ID.nuspec OUT.nupkg

A package is a zip with the parts that Open Packaging Conventions ask for. Names are sorted and times fixed: the same files give the same
bytes.
"""
import pathlib
import sys
import uuid
import zipfile

TIME = (2026, 1, 1, 0, 0, 0)
RELATIONS = """<?xml version="1.0" encoding="utf-8"?>
<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">
  <Relationship Type="http://schemas.microsoft.com/packaging/2010/07/manifest" Target="/{nuspec}" Id="R{id}" />
</Relationships>
"""
TYPES = """<?xml version="1.0" encoding="utf-8"?>
<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
  <Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml" />
{defaults}{overrides}</Types>
"""
OCTETS = "application/octet-stream"


def main():
    folder, nuspec, out = (pathlib.Path(argument) for argument in sys.argv[1:4])
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    if nuspec.as_posix() not in files:
        sys.exit(f"{folder} has no {nuspec}")
    extensions = sorted({name.rsplit("/", 1)[-1].rsplit(".", 1)[1] for name in files if "." in name.rsplit("/", 1)[-1]})
    bare = [name for name in files if "." not in name.rsplit("/", 1)[-1]]
    types = TYPES.format(
        defaults="".join(f'  <Default Extension="{e}" ContentType="{OCTETS}" />\n' for e in extensions),
        overrides="".join(f'  <Override PartName="/{name}" ContentType="{OCTETS}" />\n' for name in bare),
    )
    relation = uuid.uuid5(uuid.NAMESPACE_URL, nuspec.as_posix()).hex[:16].upper()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as package:

        def add(name, data):
            info = zipfile.ZipInfo(name, TIME)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            with package.open(info, "w", force_zip64=False) as part:
                if isinstance(data, str):
                    part.write(data.encode())
                else:
                    with open(data, "rb") as source:
                        while chunk := source.read(1 << 20):
                            part.write(chunk)

        add("_rels/.rels", RELATIONS.format(nuspec=nuspec.as_posix(), id=relation))
        add("[Content_Types].xml", types)
        for name in files:
            add(name, folder / name)


main()
