#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Expands a GGUF model to Hugging Face folders the peers can open: prepare_model.py FILE.gguf FOLDER.

Writes FOLDER/float32 and FOLDER/bfloat16, one each, so that no run's peak memory holds a conversion. Weights only:
the peers get token ids from a file.
"""
import pathlib
import sys

import torch
from transformers import AutoModelForCausalLM


def main():
    file, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).split(".")[-1]
        model.to(dtype).save_pretrained(folder / f"{name}.part")
        (folder / f"{name}.part").rename(folder / name)


if __name__ == "__main__":
    main()
