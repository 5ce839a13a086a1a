#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Adapters between PEFT and Polyad, in three processes: make FIXTURES WORK (PEFT writes adapters, merges and expected
logits), polyad FIXTURES WORK LIBRARY (Polyad takes them in, compares, writes its own), check FIXTURES WORK (PEFT reads
those and compares). Logits are those after the last token of three prompts, in float32 on the tiny llama.
"""
import ctypes
import json
import pathlib
import sys

import numpy

PROMPTS = [[5, 9, 33, 7, 2, 61], [100, 4], [17, 250, 3, 8, 8, 90, 41]]
TOLERANCE = 2e-4
TARGETS = ["q_proj", "v_proj", "down_proj"]
MERGES = {
    "linear": dict(combination_type="linear"),
    "cat": dict(combination_type="cat"),
    "ties": dict(combination_type="ties", density=0.5),
    "ties_frequency": dict(combination_type="ties", density=0.7, majority_sign_method="frequency"),
    "magnitude_prune": dict(combination_type="magnitude_prune", density=0.3),
    # All entries stay, so that no random numbers are compared.
    "dare_linear": dict(combination_type="dare_linear", density=1.0),
    "dare_ties": dict(combination_type="dare_ties", density=1.0),
}
WEIGHTS = [0.7, -0.4]

failed = 0


def compare(name, got, want):
    global failed
    off = float(numpy.abs(got - want).max())
    good = off <= TOLERANCE * max(1.0, float(numpy.abs(want).max()))
    failed += not good
    print(f"{'ok  ' if good else 'FAIL'} {name}: {off:.1e}")


def expect_moved(name, got, base):
    global failed
    if not numpy.abs(got - base).max() > 1e-2:
        failed += 1
        print(f"FAIL {name}: the adapter does nothing")


def peft_model(fixtures):
    import torch
    import transformers

    torch.manual_seed(0)
    torch.set_num_threads(1)
    return transformers.AutoModelForCausalLM.from_pretrained(
        fixtures / "models" / "llama", dtype=torch.float32, attn_implementation="eager").eval()


def peft_logits(model, **options):
    import torch

    out = []
    with torch.no_grad():
        for ids in PROMPTS:
            out.append(model(input_ids=torch.tensor([ids]), use_cache=False, **options).logits[0, -1].numpy())
    return numpy.stack(out)


def randomise(model, seed):
    import torch

    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("lora_A", "lora_B", "poly_lora", "module_logits")):
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
        if "magnitude" in name:
            parameter.data = parameter.data * (1 + 0.3 * torch.rand(parameter.shape, generator=generator))


def make(fixtures, work):
    import peft

    kinds = {
        "lora": peft.LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS),
        "rslora": peft.LoraConfig(r=3, lora_alpha=6, use_rslora=True, target_modules=TARGETS),
        "dora": peft.LoraConfig(r=4, lora_alpha=8, use_dora=True, target_modules=TARGETS),
        "rsdora": peft.LoraConfig(r=4, lora_alpha=4, use_dora=True, use_rslora=True, target_modules=TARGETS),
        "regex": peft.LoraConfig(r=2, target_modules=r"(?!.*\.1\.).*self_attn\.(q|o)_proj"),
        "all": peft.LoraConfig(r=2, target_modules="all-linear"),
        "patterns": peft.LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, rank_pattern={"q_proj": 2, r"1\..*v_proj": 6},
                                    alpha_pattern={"down_proj": 3}),
        "poly": peft.PolyConfig(task_type="CAUSAL_LM", r=2, n_tasks=3, n_skills=3, n_splits=2, target_modules=TARGETS),
    }
    numpy.save(work / "base.npy", peft_logits(peft_model(fixtures)))
    for number, (name, config) in enumerate(kinds.items()):
        model = peft.get_peft_model(peft_model(fixtures), config)
        randomise(model, number)
        model.eval().save_pretrained(work / "from_peft" / name)
        if name == "poly":
            import torch
            for task in range(3):
                numpy.save(work / f"from_peft/{name}.{task}.npy", peft_logits(model, task_ids=torch.tensor([task])))
        else:
            numpy.save(work / f"from_peft/{name}.npy", peft_logits(model))
    # Adapters of one rank on different modules, a third of another rank, and what PEFT merges them to.
    configs = {"a": dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]),
               "b": dict(r=4, lora_alpha=2, target_modules=["v_proj", "down_proj"]),
               "c": dict(r=6, lora_alpha=6, target_modules=["q_proj", "up_proj"])}
    model = None
    for name, config in configs.items():
        if model is None:
            model = peft.get_peft_model(peft_model(fixtures), peft.LoraConfig(**config), adapter_name=name)
        else:
            model.add_adapter(name, peft.LoraConfig(**config))
    randomise(model, 99)
    model.eval().save_pretrained(work / "set", selected_adapters=list(configs))
    for name in configs:
        model.set_adapter(name)
        numpy.save(work / f"set/{name}.npy", peft_logits(model))
    for name, options in MERGES.items():
        model.add_weighted_adapter(["a", "b"], WEIGHTS, name, **options)
        model.set_adapter(name)
        numpy.save(work / f"set/{name}.npy", peft_logits(model))
    model.add_weighted_adapter(["a", "b", "c"], WEIGHTS + [1.5], "cat3", combination_type="cat")
    model.set_adapter("cat3")
    numpy.save(work / "set/cat3.npy", peft_logits(model))


class Polyad:
    """As much of polyad.h as is needed here."""

    def __init__(self, library, model):
        self.c = ctypes.CDLL(str(library))
        self.c.polyad_status_message.restype = ctypes.c_char_p
        self.c.polyad_text_data.restype = ctypes.c_char_p
        context = self.new("polyad_context_create", None)
        self.context, self.model = context, self.new("polyad_backbone_open", context, str(model), '{"precision": "fp32"}')

    def call(self, name, *arguments):
        status = ctypes.c_void_p(getattr(self.c, name)(
            *[a.encode() if isinstance(a, str) else a for a in arguments]) or None)
        if status:
            raise RuntimeError(f"{name}: {self.c.polyad_status_message(status).decode()}")

    def new(self, name, *arguments):
        out = ctypes.c_void_p()
        getattr(self.c, name).restype = ctypes.c_void_p
        self.call(name, *arguments, ctypes.byref(out))
        return out

    def run(self, name, *arguments):
        getattr(self.c, name).restype = ctypes.c_void_p
        self.call(name, *arguments)

    def take_in(self, folder, options=""):
        return self.new("polyad_skillset_import_peft", self.model, str(folder), options)

    def take_in_set(self, folders, **options):
        paths = (ctypes.c_char_p * len(folders))(*[str(folder).encode() for folder in folders])
        return self.new("polyad_skillset_import_peft_set", self.model, paths, ctypes.c_size_t(len(folders)),
                        json.dumps(options))

    def logits(self, skills, task, width):
        out = numpy.zeros((len(PROMPTS), width), numpy.float32)
        for row, ids in zip(out, PROMPTS):
            self.run("polyad_backbone_logits", self.model, skills, task, (ctypes.c_int32 * len(ids))(*ids),
                     ctypes.c_size_t(len(ids)), row.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(width))
        return out

    def write(self, skills, task, folder):
        self.run("polyad_skillset_export_peft", skills, task, str(folder), None)

    def random_cpoly(self, size=0.2):
        rows = "".join(json.dumps({"task": t, "instruction": "x", "input": i, "output": t}) + "\n"
                       for t in ("up", "down") for i in "abcdefgh").encode()
        data = self.new("polyad_dataset_open_memory", self.context, rows, ctypes.c_size_t(len(rows)), None)
        skills = self.new("polyad_skillset_create", self.model, data,
                          '{"method": "cpoly", "rank": 2, "prompt": {"style": "plain"}}')
        count = ctypes.c_size_t()
        self.run("polyad_skillset_parameter_count", skills, ctypes.byref(count))
        values = numpy.random.default_rng(5).normal(0, size, count.value).astype(numpy.float32)
        self.run("polyad_skillset_set_parameters", skills, values.ctypes.data_as(ctypes.c_void_p), count)
        return skills


def polyad(fixtures, work, library):
    base = numpy.load(work / "base.npy")
    width = base.shape[1]
    lib = Polyad(library, fixtures / "models" / "llama")
    compare("backbone", lib.logits(None, None, width), base)
    out = work / "from_polyad"
    out.mkdir()
    for folder in sorted((work / "from_peft").iterdir()):
        if not folder.is_dir():
            continue
        name = folder.name
        if name == "poly":
            skills = lib.take_in(folder, '{"tasks": ["x", "y", "z"]}')
            for task, title in enumerate("xyz"):
                want = numpy.load(work / f"from_peft/poly.{task}.npy")
                compare(f"PEFT poly, task {task} -> Polyad", lib.logits(skills, title, width), want)
                expect_moved(name, want, base)
                lib.write(skills, title, out / f"poly_{title}")
                numpy.save(out / f"poly_{title}.npy", lib.logits(skills, title, width))
                numpy.save(out / f"poly.{task}.npy", lib.logits(skills, title, width))
        else:
            skills = lib.take_in(folder)
            want = numpy.load(work / f"from_peft/{name}.npy")
            compare(f"PEFT {name} -> Polyad", lib.logits(skills, None, width), want)
            expect_moved(name, want, base)
            numpy.save(out / f"{name}.npy", lib.logits(skills, None, width))
        lib.write(skills, None, out / name)
    skills = lib.random_cpoly()
    for task in ("up", "down"):
        lib.write(skills, task, out / f"cpoly_{task}")
        numpy.save(out / f"cpoly_{task}.npy", lib.logits(skills, task, width))
        expect_moved(f"cpoly_{task}", lib.logits(skills, task, width), base)

    folders = [work / "set" / name for name in "abc"]
    skills = lib.take_in_set(folders)
    for name in "abc":
        compare(f"PEFT set, {name} -> Polyad", lib.logits(skills, name, width), numpy.load(work / f"set/{name}.npy"))
        lib.write(skills, name, out / f"set_{name}")
        numpy.save(out / f"set_{name}.npy", lib.logits(skills, name, width))
    for name, options in MERGES.items():
        given = dict(combination=options["combination_type"], weights=WEIGHTS)
        if "density" in options:
            given["density"] = options["density"]
        if "majority_sign_method" in options:
            given["majority_sign"] = options["majority_sign_method"]
        merged = lib.take_in_set(folders[:2], **given)
        compare(f"merge {name}", lib.logits(merged, None, width), numpy.load(work / f"set/{name}.npy"))
    merged = lib.take_in_set(folders, combination="cat", weights=WEIGHTS + [1.5])
    compare("merge cat3", lib.logits(merged, None, width), numpy.load(work / "set/cat3.npy"))


def check(fixtures, work):
    import peft

    for folder in sorted((work / "from_polyad").iterdir()):
        if not folder.is_dir():
            continue
        name = folder.name
        model = peft.PeftModel.from_pretrained(peft_model(fixtures), folder).eval()
        if name == "poly":
            import torch
            for task in range(3):
                compare(f"Polyad poly, task {task} -> PEFT", peft_logits(model, task_ids=torch.tensor([task])),
                        numpy.load(work / f"from_polyad/poly.{task}.npy"))
        else:
            compare(f"Polyad {name} -> PEFT", peft_logits(model), numpy.load(work / f"from_polyad/{name}.npy"))


if __name__ == "__main__":
    mode, rest = sys.argv[1], [pathlib.Path(argument) for argument in sys.argv[2:]]
    {"make": make, "polyad": polyad, "check": check}[mode](*rest)
    sys.exit(1 if failed else 0)
