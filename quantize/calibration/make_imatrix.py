"""Make an importance matrix: send text through a model, layer by layer, and square what it reads.

The states come from the full-precision model, as in llama-imatrix.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import calib_data
from export.files import check_target
from quantize.calibration.calibration_text import check_length, load_text
from quantize.calibration.imatrix import Imatrix, refuse_experts, write
from quantize.calibration.stream import (
    TOKENS,
    Carried,
    OriginalLayers,
    batches,
    embed,
    fetch,
    forward,
)
from quantize.checkpoint import Checkpoint, open_checkpoint
from quantize.plan import Plan, check_limits, window_length
from quantize.progress import Progress, silent
from quantize.run.resume import Work
from runtime.backends.torch import TorchOps, check_device
from runtime.errors import CorruptFileError
from runtime.forward import Layer, Observer


@dataclass(frozen=True)
class ImatrixRequest:
    """What `quantize imatrix` is to make; fields and defaults are those of a Plan."""

    output: Path
    model: str | None = Plan.model
    adapter: Sequence[str] = Plan.adapter
    calibration: str = Plan.calibration
    rows: int = Plan.rows
    length: int | None = Plan.length
    seed: int = Plan.seed
    max_ram: float = Plan.max_ram
    device: str = Plan.device
    overwrite: bool = Plan.overwrite

    def __post_init__(self) -> None:
        check_limits(self)


class Squares(Observer):
    """Adds up the squares of what every input group of a layer reads."""

    def __init__(self, layer: Layer, device: torch.device) -> None:
        self.sums = {
            group.name: torch.zeros(group.width, dtype=torch.float64, device=device)
            for group in layer.spec.groups
        }
        """Input group -> sum over tokens of the squared input, (in,)."""

    def read(self, group: str, x: torch.Tensor) -> None:
        self.sums[group] += x.reshape(-1, x.shape[-1]).square().sum(0, dtype=torch.float64)


def make(
    request: ImatrixRequest,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda line: None,
) -> Imatrix:
    """Collect and write the file. Raises EdgequantError before any work for bad input.

    `say` is told what the checkpoint and the text were read without.
    """
    check_target(request.output, request.overwrite)
    calib_data.check_spec(request.calibration)
    check_device(request.device)
    checkpoint = open_checkpoint(request.model, request.adapter)
    refuse_experts(checkpoint.arch)
    length = window_length(request.length, checkpoint.arch.context)
    check_length(length, checkpoint.arch.context)
    windows = load_text(
        checkpoint, request.calibration, request.rows, length, request.seed, progress
    )
    progress("calibration text", 1, 1, windows.summary())
    for line in (*checkpoint.notes, *windows.left_out):
        say(line)
    rows, length = windows.ids.shape
    with tempfile.TemporaryDirectory(prefix=".imatrix-", dir=request.output.parent) as folder:
        shape = (rows, length, checkpoint.arch.hidden)
        hidden = Work(Path(folder), "").allocate("hidden", shape, request.max_ram)
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
    tokens: int = TOKENS,
) -> Iterator[tuple[str, np.ndarray]]:
    """Weight and mean squared input of each channel, (in,) float32, in the order of the layers.

    `ids` (rows, T); `hidden` (rows, T, D) float32 is room for the states. The head comes last,
    under the name of its weight: the token embedding's when they are tied. Raises EdgequantError
    for weights or inputs that are not finite.
    """
    arch, ops = checkpoint.arch, TorchOps(device)
    embed(arch, checkpoint.tensors["token_embd.weight"], ids, hidden)
    source, states = OriginalLayers(checkpoint, ops.device), Carried(hidden, tokens=tokens)
    for layer, squares in forward(ops, source, states, lambda layer: Squares(layer, ops.device)):
        for group in layer.spec.groups:
            where = f"blk.{layer.index}.{group.linears[0]}.weight"
            mean = as_mean(where, squares.sums[group.name], ids.size)
            for linear in group.linears:  # they read the same input
                yield f"blk.{layer.index}.{linear}.weight", mean
        progress("layers", layer.index + 1, arch.layers, "")
        del layer, squares
    if arch.score_head is None:  # else it is not rounded
        yield arch.head, head(ops, checkpoint, hidden, tokens)


def head(
    ops: TorchOps, checkpoint: Checkpoint, hidden: np.ndarray, tokens: int = TOKENS
) -> np.ndarray:
    """Mean squared input of the output head, (D,): final states (rows, T, D), normed."""
    rows, length, width = hidden.shape
    norm = ops.load(checkpoint.tensors["output_norm.weight"])
    squares = torch.zeros(width, dtype=torch.float64, device=ops.device)
    for here in batches(rows, max(1, tokens // length)):
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
