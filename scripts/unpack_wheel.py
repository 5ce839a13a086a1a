#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Unpacks what a C++ program needs of a wheel: unpack_wheel.py WHEEL FOLDER.

Files are written under a temporary name and renamed, and files that are already there with the same content are left
alone, so running programs keep their mappings and builds do not start over.
"""
import os
import sys
import zipfile
import zlib

# For these packages only the named files and folders are kept; every other wheel is unpacked whole.
KEEP = {
    "torch": (
        "torch/include/",
        "torch/share/cmake/",
        "torch/lib/libc10.so",
        "torch/lib/libtorch.so",
        "torch/lib/libtorch_cpu.so",
        "torch/lib/libtorch_global_deps.so",
    ),
    # The static runtime is what libpolyad_cuda.so links.
    "nvidia_cuda_runtime": ("nvidia/cu13/lib/libcudart", "nvidia/cu13/lib/libcudadevrt.a", "nvidia/cu13/include/"),
    "nvidia_cuda_nvcc": ("nvidia/cu13/bin/", "nvidia/cu13/include/"),
    "nvidia_cuda_crt": ("nvidia/cu13/include/",),
    "nvidia_nvvm": ("nvidia/cu13/lib/", "nvidia/cu13/nvvm/"),
    "nvidia_cuda_cccl": ("nvidia/cu13/include/cccl/nv/", "nvidia/cu13/include/cccl/cuda/"),
    "nvidia_cuda_cupti": ("nvidia/cu13/lib/libcupti.so",),
    "dotnetcore2": ("dotnetcore2/bin/",),
}


def wanted(package, name):
    if name.endswith("/"):
        return False
    if ".dist-info/" in name or package not in KEEP:
        return True
    return name.startswith(KEEP[package])


def same(path, info):
    try:
        if os.path.getsize(path) != info.file_size:
            return False
    except OSError:
        return False
    crc = 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            crc = zlib.crc32(chunk, crc)
    return crc == info.CRC


def main():
    wheel, folder = sys.argv[1:3]
    package = os.path.basename(wheel).split("-")[0]
    root = os.path.realpath(folder)
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            if not wanted(package, info.filename):
                continue
            path = os.path.realpath(os.path.join(root, info.filename))
            if not path.startswith(root + os.sep):
                sys.exit(f"{wheel}: {info.filename!r} points outside the folder")
            if same(path, info):
                continue
            os.makedirs(os.path.dirname(path), exist_ok=True)
            partial = f"{path}.part{os.getpid()}"
            with archive.open(info) as source, open(partial, "wb") as target:
                while chunk := source.read(1 << 20):
                    target.write(chunk)
            if info.external_attr >> 16 & 0o100:  # a program
                os.chmod(partial, 0o755)
            os.replace(partial, path)


if __name__ == "__main__":
    main()
