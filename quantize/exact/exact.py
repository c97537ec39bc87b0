"""Everything of an artifact that has one right answer, against the original's."""

from dataclasses import dataclass, replace
from pathlib import Path

from export import CONTAINERS
from export.stated import Difference
from quantize.checkpoint import Checkpoint
from quantize.exact.settings import settings
from quantize.exact.vocabulary import vocabulary
from quantize.vision import open_vision
from runtime.errors import EdgequantError
from runtime.model import Model


@dataclass(frozen=True)
class Exact:
    """What was found."""

    differences: tuple[Difference, ...] = ()
    changes: tuple[str, ...] | None = None
    """What is not as it was written, by the hashes in it: a sentence each; None without hashes."""
    notes: tuple[str, ...] = ()
    """What was not compared, in sentences."""


def exact(checkpoint: Checkpoint, path: Path, kind: str, model: Model | None) -> Exact:
    """Settings, vocabulary, and whatever else an artifact says, compared with its original.

    `kind` is its container, `model` what our reader makes of it; None where it can make nothing.
    Of a file that another program wrote, what it may say in other words is read as its readers do;
    of one of ours, every key, node and small file must be what our writer says of the checkpoint.
    """
    if kind not in CONTAINERS:
        return Exact(notes=(f"what a {kind} says beside its weights is not compared",))
    arch, notes, found = checkpoint.arch, list[str](), list[Difference]()
    if model:
        arch = replace(arch, tied=model.arch.tied)
    try:
        told = CONTAINERS[kind].stated(path, arch, checkpoint.files, open_vision(checkpoint))
        found += told.differences()
        if told.whole:
            return Exact(tuple(found), changes(path, kind))
        notes.append(UNKNOWN)
    except EdgequantError as error:
        notes.append(f"not all that it says was compared: {error}")
    if model:
        found += settings(model.arch, arch, CONTAINERS[kind].context(arch))
    if model and model.tokenizer:
        found += vocabulary(model.tokenizer, checkpoint.tokenizer)
    return Exact(tuple(found), changes(path, kind), tuple(notes))


def changes(path: Path, kind: str) -> tuple[str, ...] | None:
    """What the hashes in an artifact tell; None where it holds none, or those of another one.

    llama.cpp's quantizer keeps every key of the file that it reads.
    """
    container = CONTAINERS[kind]
    try:
        return tuple(container.verify(path)) if container.maker(path) == "edgequant" else None
    except EdgequantError:
        return None


UNKNOWN = (
    "another program wrote it: its settings and vocabulary were compared as they are read, and "
    "nothing that it says beside them"
)
