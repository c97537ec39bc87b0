"""GGUF files with the shapes of Qwen2.5 and random weights, for figures of speed and memory.

What weights are does not change how fast they are read, so a file is made in seconds: a few hundred
rows of each type and width are rounded, and every tensor is made of rows drawn from them. The
vocabulary has as many words as Qwen2.5's, because reading it is a part of loading a file.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.common import ROOT
from bench.memory import LARGE, QWEN, SMALL
from export.gguf import write
from quantize.checkpoint import bundled
from quantize.plan import Target, assign
from runtime.archs import Arch, family_of
from runtime.quant_types import QuantType
from runtime.tensor import Tensor

FOLDER = ROOT / "build" / "speed"
"""Where files are kept from one run to the next; git ignores it."""
CONFIGS: dict[str, dict[str, Any]] = {
    "0.5B": QWEN | SMALL | {"num_hidden_layers": 24},
    "1.5B": QWEN | LARGE | {"num_hidden_layers": 28},
}
WORDS = 151643
"""Of Qwen2.5's vocabulary; the embedding has some rows more."""
SAMPLE = 256
"""Different rows of a type and width."""
DEVIATION = 0.02
"""Of the weights, as those of a model before training."""


def arch_of(size: str) -> Arch:
    """The sizes of one of CONFIGS."""
    return family_of(CONFIGS[size]).arch(CONFIGS[size])


def file(size: str, preset: str, folder: Path = FOLDER, words: int = WORDS) -> Path:
    """The file of a size and a preset, made when it is not there yet."""
    path = folder / f"Qwen2.5-{size}-{preset}.gguf"
    if not path.exists():
        write(path, arch_of(size), tensors(size, preset), tokenizer(folder, words), {})
    return path


def tensors(size: str, preset: str) -> Iterator[Tensor]:
    """Every tensor of a model in a container's mixture, in file order."""
    arch = arch_of(size)
    types = assign(Target("gguf", preset), arch, ()).types
    yield from random_tensors(arch, types)


def random_tensors(arch: Arch, types: Mapping[str, QuantType]) -> Iterator[Tensor]:
    """Random tensors of these types; norms are near 1."""
    random = np.random.default_rng(0)
    samples: dict[tuple[str, int], np.ndarray] = {}
    for name, shape in arch.shapes().items():
        if len(shape) == 1:
            values = DEVIATION * random.standard_normal(shape, np.float32) + ("norm" in name)
            yield Tensor.dense(name, values)
            continue
        qtype, cols = types[name], shape[1]
        if (qtype.name, cols) not in samples:
            weight = DEVIATION * random.standard_normal((SAMPLE, cols), np.float32)
            samples[qtype.name, cols] = qtype.pack(*qtype.quantize(weight))
        rows = random.integers(SAMPLE, size=shape[0])
        yield Tensor(name, shape, qtype, samples[qtype.name, cols][rows])


def tokenizer(folder: Path, words: int) -> Path:
    """A folder with the bundled tokenizer, grown to so many words by random merges of its words."""
    grown = folder / "tokenizer"
    if not grown.exists():
        shutil.copytree(bundled(), grown, ignore=shutil.ignore_patterns("*.safetensors", "*.md"))
        path = grown / "tokenizer.json"
        settings = json.loads(path.read_text(encoding="utf-8"))
        special = max(token["id"] for token in settings["added_tokens"])
        grow(settings["model"], special + 1, words)
        # an added token between words keeps its id only as a word
        added = {token["content"]: token["id"] for token in settings["added_tokens"]}
        settings["model"]["vocab"] |= added
        path.write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
    return grown


def grow(model: dict[str, Any], first: int, stop: int) -> None:
    """Add words of two words each to a BPE model, with numbers from `first` up to `stop`."""
    random, words = np.random.default_rng(0), list(model["vocab"])
    while first < stop:
        left, right = (words[i] for i in random.integers(len(words), size=2))
        if left + right not in model["vocab"]:
            model["vocab"][left + right] = first
            model["merges"].append([left, right])
            first += 1
