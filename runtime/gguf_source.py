"""A GGUF file as a checkpoint: what was quantized, or only converted, is where a run starts from.

Weights keep the type that they have in the file and are decoded where numbers are needed. What
llama.cpp's converter changed is undone as everywhere that such a file is read (gguf_file.py); what
else a checkpoint's folder holds is written anew from the metadata (gguf_small_files.py).
"""

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from runtime import generation_config, pooling
from runtime.archs import FAMILIES, Family
from runtime.archs.hf_sizes import unlike
from runtime.checkpoint import Checkpoint
from runtime.errors import UnsupportedError
from runtime.gguf_file import GgufTensors, TensorInfo, open_tensors
from runtime.gguf_small_files import small_files, tokenizer_notes
from runtime.json_files import Config, checked
from runtime.links import check_kind, check_name
from runtime.quant_types import QUANT_TYPES
from runtime.stored import Expected, MappedFile, Parts, StoredArray, StoredTensors, rows_of
from runtime.tensor import Shape, Tensor, is_matrix, rows_and_cols
from runtime.tokenizer import Tokenizer
from runtime.tokenizer_class import replaced_rules


@dataclass(frozen=True)
class PackedArray(StoredArray):
    """A tensor of a GGUF; `dtype` is the name of its block type."""

    @property
    def nbytes(self) -> int:
        rows, cols = rows_and_cols(self.shape)
        return rows * QUANT_TYPES[self.dtype].row_bytes(cols)

    def read(self) -> np.ndarray:
        return self.file.view(self.start, self.start + self.nbytes)

    def read_rows(self, start: int, stop: int) -> np.ndarray:
        row = QUANT_TYPES[self.dtype].row_bytes(self.shape[-1])
        data = self.file.view(self.start + start * row, self.start + stop * row)
        return data.reshape(stop - start, row)


def read_gguf(path: Path) -> Checkpoint:
    """Open a file, or all parts of it by one of them, as a checkpoint.

    Raises EdgequantError in one sentence for what is no model, is damaged, has no tokenizer, or is
    of a form that no config.json says.
    """
    check_name(path)
    check_kind(path)
    opened, tokenizer = open_tensors(path)
    arch, metadata = opened.arch, opened.file.metadata
    family = FAMILIES[arch.family]
    if tokenizer is None:
        raise UnsupportedError(
            f"{path} has no tokenizer, which calibration and reports need; give the checkpoint "
            "that it was made from."
        )
    config = family.config(arch)
    checked(config, Config, f"the sizes in {path}", "convert the model again")
    again = family.arch(config)
    if fields := unlike(arch, again):
        raise UnsupportedError(
            f"{path} has sizes that no config.json of a {config['model_type']} says "
            f"({', '.join(fields)}); run the file itself with `quantize generate`, or give the "
            "checkpoint that it was made from."
        )
    files = small_files(config, metadata, tokenizer)
    found = Checkpoint(
        path,
        config,
        family,
        replace(arch, context=again.context),
        tensors_of(opened, family),
        Tokenizer.from_folder(files.path),
        merged_files=files,
    )
    return replace(found, notes=tuple(_notes(found, opened)))


def _notes(found: Checkpoint, opened: GgufTensors) -> list[str]:
    """What such an original is, and what was decided of it."""
    kinds = Counter(t.qtype.name for t in opened.infos.values() if is_matrix(t.shape))
    listed = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common())
    rounded = any(not QUANT_TYPES[kind].is_float for kind in kinds)
    what = "were rounded before, and these values are" if rounded else "are"
    notes = [
        f"the source is the GGUF {found.folder.name} ({listed}): its weights {what} the original "
        "that reports compare with",
        *tokenizer_notes(opened.file.metadata),
    ]
    metadata = opened.file.metadata
    stated = int(metadata[f"{metadata['general.architecture']}.context_length"])
    if stated > opened.arch.context:
        notes.append(
            f"the GGUF says a context of {stated:,} tokens; it ends at {opened.arch.context:,}, "
            "where its window or its first table of rope factors does"
        )
    said, context = opened.arch.context, found.arch.context
    if said != context:
        notes.append(
            f"the GGUF says a context of {said:,} tokens, and its rope scaling one of {context:,}, "
            "which is used, as of a checkpoint"
        )
    notes += [*pooling.notes(found.files), *generation_config.notes(found.files)]
    rules = replaced_rules(found.files, found.config, found.tokenizer)
    return [*notes, *found.tokenizer.notes(), *rules]


def tensors_of(opened: GgufTensors, family: Family) -> StoredTensors:
    """The model's tensors in file order of our own writers, by runtime name."""
    files: dict[str, MappedFile] = {}

    def stored(info: TensorInfo) -> StoredArray:
        file = files.setdefault(str(info.path), MappedFile(info.path))
        return PackedArray(file, info.qtype.name, info.shape, info.offset)

    arrays = {name: stored(info) for name, info in opened.infos.items()}
    weights = {}
    for name, shape in opened.arch.shapes().items():
        order, scales = family.gguf_rows(opened.arch, name), opened.scales.get(name)
        expected = {name: Expected(shape, (arrays[name].dtype,))}
        if order is None and scales is None:
            places = (0, shape[1]) if len(shape) == 3 else None
            weights[name] = Parts(shape, expected, places=places)
        else:
            weights[name] = Parts(shape, expected, partial(_undone, order, scales))
    return StoredTensors(weights, arrays)


def _undone(
    order: np.ndarray | None,
    scales: np.ndarray | None,
    name: str,
    shape: Shape,
    arrays: list[StoredArray],
) -> Tensor:
    """A tensor with its rows where the checkpoint has them, and its scales inside the blocks."""
    tensor = rows_of(name, shape, arrays)
    if order is not None:
        rows = tensor.data.reshape(len(order), -1)[np.argsort(order)]
        tensor = replace(tensor, data=rows.reshape(tensor.data.shape))
    return replace(tensor, scales=scales).scaled()
