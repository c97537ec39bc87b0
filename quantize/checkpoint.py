"""The checkpoint that a user names: a folder, a hub id, or the bundled one."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from array_api_compat import array_namespace

from quantize.hub import ADAPTER, CHECKPOINT, download
from runtime.checkpoint import Checkpoint, read_checkpoint
from runtime.errors import CorruptFileError, InputError
from runtime.gguf_file import is_gguf
from runtime.gguf_source import read_gguf
from runtime.memory import drop_pages
from runtime.quant_types.base import Array
from runtime.tensor import Tensor


def bundled() -> Path:
    """The checkpoint that comes with the project: the default of the demo and of the tests."""
    return Path(__file__).resolve().parent.parent / "models" / "tiny-qwen2.5"


def open_checkpoint(source: str | Path | None, adapters: Sequence[str | Path] = ()) -> Checkpoint:
    """Open a local folder, a hub id such as "Qwen/Qwen2.5-0.5B" (extra `hub`), or the bundled one;
    or a GGUF file, whose weights are then the original.

    LoRA `adapters`, folders or hub ids, are merged into it as it is read, in their order. Checks
    that every tensor that the config asks for is there, with its shape and a float dtype.
    Raises EdgequantError in one sentence otherwise.
    """
    if not source and not bundled().exists():
        raise InputError(
            "the bundled model comes with the repository, not with an installed package; give a "
            "checkpoint folder or a hub id like Qwen/Qwen2.5-0.5B."
        )
    merged = [_local(adapter, ADAPTER) for adapter in adapters]
    path = _local(source or bundled())
    if not path.is_file() or path.suffix != ".gguf" and not is_gguf(path):
        return read_checkpoint(path, merged)
    if merged:
        raise InputError(
            f"{path} is a GGUF file, and adapters are merged into checkpoint folders alone; give "
            "the folder of the checkpoint that it was made from."
        )
    return read_gguf(path)


def _local(source: str | Path, way_out: str = CHECKPOINT) -> Path:
    """A folder as it is, a hub id as the folder that it was downloaded to."""
    return Path(source) if Path(source).exists() else download(str(source), way_out)


def check_finite(tensor: Tensor, values: Array, name: str | None = None) -> None:
    """Raise EdgequantError naming the tensor and how many of its values are NaN or infinite.

    `values` are numpy's or torch's, of any shape; `name` is that of the sentence, by default the
    tensor's.
    """
    xp = array_namespace(values)
    with np.errstate(over="ignore", invalid="ignore"):
        total = xp.sum(values)
    if xp.isfinite(total):
        return
    bad = int(xp.sum(~xp.isfinite(values)))
    if bad:  # finite values may have an infinite sum
        raise CorruptFileError(
            f"{name or tensor.name} holds {bad} NaN or infinite values of "
            f"{math.prod(values.shape)}; the checkpoint is damaged: download it again."
        )


def check_tables(checkpoint: Checkpoint) -> None:
    """Raise CorruptFileError for rows of the embedding or head that hold NaN or infinity.

    A row that no token uses passes every layer unseen, and makes the table's Hessian singular.
    """
    tokens = checkpoint.tokenizer.backend.get_vocab_size()
    head = checkpoint.arch.score_head
    heads = head.weights if head else (checkpoint.arch.head,)
    for name in dict.fromkeys(("token_embd.weight", *heads)):
        tensor = checkpoint.tensors[name]
        step = max(1, TABLE_CHUNK // tensor.shape[1])
        bad: list[int] = []
        for start in range(0, tensor.shape[0], step):
            fine = np.isfinite(tensor.decode(start, start + step)).all(1)
            drop_pages([tensor.data])
            bad += (start + np.flatnonzero(~fine)).tolist()
        if bad:
            unused = ", which no token uses" if bad[0] >= tokens else ""
            raise CorruptFileError(
                f"{name} holds NaN or infinity in {len(bad)} rows, the first is {bad[0]}{unused}; "
                "set them to zero if no token uses them, else download the checkpoint again."
            )


TABLE_CHUNK = 1 << 22
"""Values of a table that are looked at at a time."""

__all__ = ["Checkpoint", "bundled", "check_finite", "check_tables", "open_checkpoint"]
