#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""llama.cpp loads the LoRA files Polyad writes and says what Polyad says: lora_files.py LIBRARY WORK MODEL...

For each GGUF model random skills of two tasks are written as LoRA files. Logits after the last token of three prompts move by as much,
in the same direction, in both programs: llama.cpp rounds activations to 8 bits where Polyad does not, which leaves some per cent. Needs the
Python package llama-cpp-python.
"""
import pathlib
import sys

import llama_cpp
import numpy

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "peft"))
import round_trip
from round_trip import PROMPTS, Polyad

APART = 0.2  # of the move's length; a wrong scale or order of rows gives 1
MOVE = 0.5  # of the logits' length: large beside that rounding


def llama_logits(model, lora=None):
    llm = llama_cpp.Llama(str(model), lora_path=lora and str(lora), n_ctx=128, logits_all=True, n_threads=1, verbose=False)
    out = []
    for ids in PROMPTS:
        llm.reset()
        llm.eval(ids)
        out.append(numpy.array(llm.scores[len(ids) - 1]))
    llm.close()
    return numpy.stack(out)


def main(library, work, *models):
    failed = 0
    for model in models:
        theirs = llama_logits(model)
        polyad = Polyad(library, model)
        width = theirs.shape[1]
        ours = polyad.logits(None, None, width)
        print(f"{model.name}: backbones {numpy.linalg.norm(ours - theirs) / numpy.linalg.norm(ours):.4f} apart")
        size, moves = 0.1, lambda task: polyad.logits(skills, task, width) - ours
        while True:
            skills = polyad.random_cpoly(size)
            if size > 10 or min(numpy.linalg.norm(moves(task)) for task in ("up", "down")) > MOVE * numpy.linalg.norm(ours):
                break
            size *= 1.5
        for task in ("up", "down"):
            file = work / f"{model.stem}-{task}.gguf"
            polyad.run("polyad_skillset_export_gguf", skills, task, str(file), None)
            moved, wanted = llama_logits(model, file) - theirs, moves(task)
            share = numpy.linalg.norm(wanted) / numpy.linalg.norm(ours)
            apart = numpy.linalg.norm(moved - wanted) / numpy.linalg.norm(wanted)
            good = apart <= APART and share > MOVE
            failed += not good
            print(f"{'ok  ' if good else 'FAIL'} {model.name}, {task}: the skill moves logits by {share:.2f} of their length; "
                  f"{apart:.3f} of that move is another")
    return failed


if __name__ == "__main__":
    sys.exit(1 if main(*[pathlib.Path(argument) for argument in sys.argv[1:]]) else 0)
