#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Lets the CUDA build of PyTorch be imported on a machine without CUDA: cuda_stubs.py SITE_PACKAGES.

The PyTorch wheel of the default index loads some 2.5 GB of CUDA libraries at import, of which a CPU run calls nothing.
This writes, with gcc, a library of the same name in their place for each that is missing; any call into it would stop
the program. The CPU code of PyTorch is untouched.
"""
import pathlib
import re
import subprocess
import sys

LIBRARIES = ("libtorch_cuda.so", "libtorch_cuda_linalg.so", "libtorch_python.so", "libtorch_nvshmem.so")
# Libraries without symbol versions: a symbol belongs where its name begins like this.
PREFIXES = {
    "cusparseLt": "libcusparseLt.so.0",
    "nccl": "libnccl.so.2",
    "cuFile": "libcufile.so.0",
    "curand": "libcurand.so.10",
    "nvshmem": "libnvshmem_host.so.3",
}


def output_of(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main():
    site = pathlib.Path(sys.argv[1])
    target = site / "nvidia" / "cu13" / "lib"
    target.mkdir(parents=True, exist_ok=True)
    symbols, version_of = {}, {}
    for name in LIBRARIES:
        path = str(site / "torch" / "lib" / name)
        needed = re.findall(r"NEEDED.*\[(.+?)\]", output_of("readelf", "-d", path))
        for library in needed:
            if re.match(r"lib(cu(?!da)|nccl|nvshmem)", library) and not library.startswith("libcudart"):
                symbols.setdefault(library, set())
        library = None
        for line in output_of("readelf", "-V", "-W", path).splitlines():
            if match := re.search(r"File: (\S+)", line):
                library = match.group(1)
            elif (match := re.search(r"Name: (\S+)", line)) and library in symbols:
                version_of[match.group(1)] = library
        for line in output_of("nm", "-D", "--undefined-only", path).splitlines():
            symbol, _, version = line.split()[-1].replace("@@", "@").partition("@")
            if version in version_of:
                symbols[version_of[version]].add((symbol, version))
            for prefix, library in PREFIXES.items():
                if not version and symbol.startswith(prefix):
                    symbols.setdefault(library, set()).add((symbol, ""))
    for library, names in symbols.items():
        path = target / library
        if path.exists() or list(site.glob(f"nvidia/*/lib/{library}")):
            continue
        code = [f".globl {symbol}\n.type {symbol},@function\n{symbol}: ud2" for symbol, _ in sorted(names)]
        source, script = path.with_suffix(".s"), path.with_suffix(".map")
        source.write_text(".text\n" + "\n".join(code) + '\n.section .note.GNU-stack,"",@progbits\n')
        command = ["gcc", "-shared", "-nostdlib", f"-Wl,-soname,{library}", "-o", str(path), str(source)]
        versions = sorted({version for _, version in names if version})
        if versions:
            script.write_text("".join(
                f"{version} {{ global: {' '.join(s + ';' for s, v in sorted(names) if v == version)} }};\n"
                for version in versions))
            command.append(f"-Wl,--version-script={script}")
        subprocess.run(command, check=True)
        source.unlink()
        script.unlink(missing_ok=True)
        print(f"{library}: stub with {len(names)} symbols")


if __name__ == "__main__":
    main()
