"""Make an importance matrix: send text through a model, layer by layer, and square what it reads.

The states come from the full-precision model, as in llama-imatrix.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

import calib_data
from export.files import check_target
from quantize.calibrate import Progress, advance, batches, embed, fetch, load_layer, silent
from quantize.checkpoint import Checkpoint, open_checkpoint
from quantize.imatrix import Imatrix, write
from quantize.pipeline import check_device
from quantize.plan import Plan, check_limits
from quantize.resume import Work
from quantize.texts import load_text
from runtime.backends.torch import TorchOps
from runtime.errors import CorruptFileError
from runtime.forward import Layer

TOKENS = 2048
"""Tokens whose final states are normed at a time."""


@dataclass(frozen=True)
class Request:
    """What `quantize imatrix` is to make; fields and defaults are those of a Plan."""

    output: Path
    model: str | None = Plan.model
    calibration: str = Plan.calibration
    rows: int = Plan.rows
    length: int = Plan.length
    seed: int = Plan.seed
    max_ram: float = Plan.max_ram
    device: str = Plan.device
    overwrite: bool = Plan.overwrite

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass
class Listening(Layer):
    """A layer that adds up the squares of what some linears read while it computes."""

    squares: dict[str, torch.Tensor] = field(default_factory=dict)
    """Linear -> sum over tokens of the squared input, (in,) float64."""

    def linear(self, ops: TorchOps, name: str, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        if name in self.squares:
            self.squares[name] += x.reshape(-1, x.shape[-1]).square().sum(0, dtype=torch.float64)
        return super().linear(ops, name, x)


def make(request: Request, progress: Progress = silent) -> Imatrix:
    """Collect and write the file. Raises EdgequantError before any work for bad input."""
    check_target(request.output, request.overwrite)
    check_device(request.device)
    checkpoint = open_checkpoint(request.model)
    windows = load_text(
        checkpoint, request.calibration, request.rows, request.length, request.seed, progress
    )
    progress("calibration text", 1, 1, windows.summary())
    rows, length = windows.ids.shape
    with tempfile.TemporaryDirectory(prefix=".imatrix-", dir=request.output.parent) as folder:
        shape = (rows, length, checkpoint.arch.hidden)
        hidden = Work(Path(folder), "").room("hidden", shape, request.max_ram)
        means = dict(collect(checkpoint, windows.ids, hidden, request.device, progress))
    own_file = calib_data.is_file(request.calibration)
    dataset = Path(request.calibration).name if own_file else request.calibration
    counts = dict.fromkeys(means, rows * length)
    found = Imatrix(means, counts, (dataset,), rows, length)
    write(request.output, found, request.overwrite)
    return found


def collect(
    checkpoint: Checkpoint,
    ids: np.ndarray,
    hidden: np.ndarray,
    device: str = "cpu",
    progress: Progress = silent,
) -> Iterator[tuple[str, np.ndarray]]:
    """Weight and mean squared input of each channel, (in,) float32, in the order of the layers.

    `ids` (rows, T); `hidden` (rows, T, D) float32 is room for the states. The head comes last,
    under the name of its weight: the token embedding's when they are tied. Raises EdgequantError
    for weights or inputs that are not finite.
    """
    arch, ops = checkpoint.arch, TorchOps(device)
    embed(checkpoint.tensors["token_embd.weight"], ids, hidden)
    for index in range(arch.layers):
        layer = Listening(arch, load_layer(checkpoint, index, ops.device))
        for stage in checkpoint.family.stages:
            width = layer.weights[f"{stage.linears[0]}.weight"].shape[1]
            zeros = torch.zeros(width, dtype=torch.float64, device=ops.device)
            layer.squares[stage.linears[0]] = zeros
        advance(ops, layer, hidden, hidden)
        for stage in checkpoint.family.stages:
            where = f"blk.{index}.{stage.linears[0]}.weight"
            mean = as_mean(where, layer.squares[stage.linears[0]], ids.size)
            for linear in stage.linears:  # they read the same input
                yield f"blk.{index}.{linear}.weight", mean
        progress("layers", index + 1, arch.layers, "")
    yield arch.head, head(ops, checkpoint, hidden)


def head(ops: TorchOps, checkpoint: Checkpoint, hidden: np.ndarray) -> np.ndarray:
    """Mean squared input of the output head, (D,): final states (rows, T, D), normed."""
    rows, length, width = hidden.shape
    norm = ops.load(checkpoint.tensors["output_norm.weight"])
    squares = torch.zeros(width, dtype=torch.float64, device=ops.device)
    for here in batches(rows, max(1, TOKENS // length)):
        x = fetch(hidden, here, ops.device)
        normed = ops.rmsnorm(x, norm, checkpoint.arch.eps)
        squares += normed.reshape(-1, width).square().sum(0, dtype=torch.float64)
    return as_mean(checkpoint.arch.head, squares, rows * length)


def as_mean(name: str, squares: torch.Tensor, tokens: int) -> np.ndarray:
    """Sums over tokens -> means, float32. Raises EdgequantError when one is NaN or infinite."""
    mean = (squares / tokens).float()
    if not bool(torch.isfinite(mean).all()):
        raise CorruptFileError(
            f"{name} reads inputs that are NaN or too large for float32; the checkpoint is damaged:"
            " download it again."
        )
    return mean.cpu().numpy()
