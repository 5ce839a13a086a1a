# SPDX-License-Identifier: Apache-2.0
"""Reads a bundle with Python's msgpack and nothing of Polyad: the proof that docs/bundle.md is enough.

Usage: read_bundle.py FILE. Prints each tensor; exit status 1 on any disagreement, 77 where msgpack is not installed.
"""
import struct
import sys
import zlib

try:
    import msgpack
except ImportError:
    print("read_bundle.py: skipped, this Python has no msgpack module")
    sys.exit(77)

SIZES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I8": 1, "I16": 2, "I32": 4, "I64": 8,
         "U8": 1, "U16": 2, "U32": 4, "U64": 8, "BOOL": 1}
KEYS = ["format", "version", "backbone", "config", "tasks", "metadata"]


def main(path):
    with open(path, "rb") as file:
        document = msgpack.unpackb(file.read())
    keys = list(document)
    assert keys[:6] == KEYS and keys[-1] == "tensors", keys
    assert document["format"] == "polyad", document["format"]
    assert document["version"][0] == 1, document["version"]
    assert isinstance(document["backbone"]["fingerprint"], str)
    names = set()
    for tensor in document["tensors"]:
        assert list(tensor) == ["name", "dtype", "shape", "crc32", "data"], list(tensor)
        count = 1
        for dimension in tensor["shape"]:
            count *= dimension
        assert len(tensor["data"]) == count * SIZES[tensor["dtype"]], tensor["name"]
        assert zlib.crc32(tensor["data"]) == tensor["crc32"], tensor["name"]
        assert tensor["name"] not in names, tensor["name"]
        names.add(tensor["name"])
        first = struct.unpack("<f", tensor["data"][:4]) if count and tensor["dtype"] == "F32" else ()
        print(tensor["name"], tensor["dtype"], tensor["shape"], *first)
    print(f"{len(names)} tensors, {len(document['tasks'])} tasks, method {document['config'].get('method')}: ok")


if __name__ == "__main__":
    main(sys.argv[1])
