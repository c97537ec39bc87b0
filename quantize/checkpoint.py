"""The checkpoint that a user names: a folder, a hub id, or the bundled one."""

import math
from pathlib import Path

import numpy as np
from array_api_compat import array_namespace

from quantize.hub import download
from runtime.checkpoint import Checkpoint, read_checkpoint
from runtime.errors import CorruptFileError, InputError
from runtime.quant_types.base import Array
from runtime.tensor import Tensor


def bundled() -> Path:
    """The checkpoint that comes with the project: the default of the demo and of the tests."""
    return Path(__file__).resolve().parent.parent / "models" / "tiny-qwen2.5"


def open_checkpoint(source: str | Path | None) -> Checkpoint:
    """Open a local folder, a hub id such as "Qwen/Qwen2.5-0.5B" (extra `hub`), or the bundled one.

    Checks that every tensor the config asks for is there with its shape and a float dtype, before
    any work. Raises EdgequantError in one sentence otherwise.
    """
    folder = Path(source) if source else bundled()
    if not source and not folder.exists():
        raise InputError(
            "the bundled model comes with the repository, not with an installed package; give a "
            "checkpoint folder or a hub id like Qwen/Qwen2.5-0.5B."
        )
    return read_checkpoint(folder if folder.exists() else download(str(source)))


def check_finite(tensor: Tensor, values: Array) -> None:
    """Raise EdgequantError naming the tensor and how many of its values are NaN or infinite.

    `values` are numpy's or torch's, of any shape.
    """
    xp = array_namespace(values)
    with np.errstate(over="ignore", invalid="ignore"):
        total = xp.sum(values)
    if xp.isfinite(total):
        return
    bad = int(xp.sum(~xp.isfinite(values)))
    if bad:  # finite values may have an infinite sum
        raise CorruptFileError(
            f"{tensor.name} holds {bad} NaN or infinite values of {math.prod(values.shape)}; "
            "the checkpoint is damaged: download it again."
        )


__all__ = ["Checkpoint", "bundled", "check_finite", "open_checkpoint"]
