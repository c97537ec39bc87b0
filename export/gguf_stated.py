"""The metadata of a GGUF file, and what they must be."""

from pathlib import Path
from typing import Any

import numpy as np

from export.gguf_general import PROVENANCE, general
from export.gguf_tensors import rope_tables
from export.gguf_vocab import vocabulary
from export.stated import Stated
from runtime.archs import FAMILIES, Arch
from runtime.gguf_file import read
from runtime.gguf_parts import read_parts

MEANT = ("general.architecture", "general.sampling.", f"{PROVENANCE}eos_token_ids")
"""How those of the general keys and of ours begin that decide what is computed."""
PARTS = "split."
"""How the keys begin that say which part of a model a file is."""


def all_metadata(arch: Arch, source: Path, extra: dict[str, Any]) -> dict[str, Any]:
    """Every key of the file; see `write` in gguf.py."""
    sizes = general(arch, source, extra) | FAMILIES[arch.family].gguf_keys(arch)
    return sizes | vocabulary(source, arch.vocab)


def stated(path: Path, arch: Arch, source: Path, vision: object) -> Stated:
    """Keys and rope tables of a file of a model with these sizes, made from the folder `source`.

    A vision tower stands in a file of its own. Raises EdgequantError for a file that
    cannot be read, and as `all_metadata` does.
    """
    metadata = read_parts(path)[0].metadata
    expected = all_metadata(arch, source, {})
    expected["general.architecture"] = FAMILIES[arch.family].architecture
    ours = any(key.startswith(PROVENANCE) for key in metadata)
    sides = {key: value for key, value in metadata.items() if decides(key)}
    due = {key: value for key, value in expected.items() if decides(key)}
    if not ours:  # another converter may sample by llama.cpp's own settings
        due = {key: value for key, value in due.items() if not key.startswith("general.sampling.")}
    stored = read(path).tensors
    for name, values in rope_tables(arch).items():
        due[name] = values
        if name in stored:
            raw = np.ascontiguousarray(stored[name].packed)
            sides[name] = stored[name].qtype.decode(raw).reshape(-1)
    return Stated(sides, due, whole=ours)


def decides(key: str) -> bool:
    """Whether a key says what is computed, and not how the file came about."""
    if key.startswith(("general.", PROVENANCE)):
        return key.startswith(MEANT)
    return not key.startswith((PARTS, "quantize."))
