"""Make an importance matrix: send text through a model, layer by layer, and square what it reads.

The states come from the full-precision model, as in llama-imatrix.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import calib_data
from export.files import check_target
from quantize.calibration.calibration_text import check_length, load_text, with_images
from quantize.calibration.image_text import open_images
from quantize.calibration.imatrix import Imatrix, write
from quantize.calibration.layer_cost import (
    activation_bytes,
    at_once,
    one_by_one_bytes,
    streamed_bytes,
)
from quantize.calibration.rows import Rows
from quantize.calibration.states import embed, fetch
from quantize.calibration.stream import TOKENS, Carried, OriginalLayers, batches, forward
from quantize.calibration.streamed import StreamingOps
from quantize.checkpoint import Checkpoint, open_checkpoint
from quantize.plan import Plan, check_limits, window_length
from quantize.plan.values import parse_gib
from quantize.progress import Progress, silent
from quantize.run.cost import FLOAT, Cost, in_memory, in_turn
from quantize.run.limited import fitting
from quantize.run.resume import Work
from quantize.run.way import WAYS, Way
from runtime.archs import InputGroup
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
    calib_images: str = Plan.calib_images
    rows: int = Plan.rows
    length: int | None = Plan.length
    seed: int = Plan.seed
    max_ram: float | str | None = Plan.max_ram
    device: str = Plan.device
    overwrite: bool = Plan.overwrite

    def __post_init__(self) -> None:
        if self.max_ram is not None:
            object.__setattr__(self, "max_ram", parse_gib(self.max_ram))
        check_limits(self)

    @property
    def ram_limit(self) -> float | None:
        """GiB of `max_ram`, which may have been a text."""
        return None if self.max_ram is None else parse_gib(self.max_ram)


Measured = tuple[str, np.ndarray, int | tuple[int, ...]]
"""A weight, the mean squared input of each channel, (in,) or (experts, in), and how many tokens it
is over."""


class Squares(Observer):
    """Adds up the squares of what every input group of a layer reads."""

    def __init__(self, layer: Layer, device: torch.device) -> None:
        self.sums = {
            group.name: torch.zeros(group.width, dtype=torch.float64, device=device)
            for group in layer.spec.groups
        }
        """Input group -> sum over tokens of the squared input, (in,)."""
        self.counts: Counter[str] = Counter()
        """Input group -> how many tokens."""

    def read(self, group: str, x: torch.Tensor) -> None:
        flat = x.reshape(-1, x.shape[-1])
        self.sums[group] += flat.square().sum(0, dtype=torch.float64)
        self.counts[group] += len(flat)

    def mean(self, group: InputGroup, where: str) -> np.ndarray:
        """Of each channel, (in,) float32; 1 where no token came."""
        if not self.counts[group.name]:
            return np.ones(group.width, np.float32)
        return as_mean(where, self.sums[group.name], self.counts[group.name])


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
    length = window_length(request.length, checkpoint.arch.context)
    check_length(length, checkpoint.arch.context)
    sizes = (request.rows, length, request.seed)
    images, told = open_images(checkpoint, request.calib_images, *sizes)
    text = load_text(checkpoint, request.calibration, *sizes, progress)
    windows, read = with_images(text, images, checkpoint, progress)
    progress("calibration text", 1, 1, windows.summary())
    for line in (*checkpoint.notes, *told, *windows.left_out):
        say(line)
    rows, length = read.shape
    way = WAYS[0]
    if request.ram_limit is not None:
        way = fitting(request.ram_limit, lambda way: collect_cost(checkpoint, read, way))
    with tempfile.TemporaryDirectory(prefix=".imatrix-", dir=request.output.parent) as folder:
        shape = (rows, length, checkpoint.arch.hidden)
        hidden = Work(Path(folder), {}).allocate("hidden", shape, way.states)
        every = list(
            collect(checkpoint, read, hidden, request.device, progress, linears=way.streamed)
        )
    own_file = calib_data.is_file(request.calibration)
    dataset = Path(request.calibration).name if own_file else request.calibration
    means = {name: mean for name, mean, _ in every}
    counts = {name: count for name, _, count in every}
    sets = (dataset, f"images {Path(request.calib_images).name}") if images else (dataset,)
    found = Imatrix(means, counts, sets, rows, length)
    write(request.output, found, request.overwrite)
    return found


def collect(
    checkpoint: Checkpoint,
    rows: Rows,
    hidden: np.ndarray,
    device: str = "cpu",
    progress: Progress = silent,
    tokens: int = TOKENS,
    linears: bool = False,
) -> Iterator[Measured]:
    """Every weight, in the order of the layers; `linears`: decoded some rows at a time.

    `hidden` (rows, T, D) float32 is room for the states. The head comes last, under the name
    of its weight: the token embedding's when they are tied. Raises EdgequantError for weights or
    inputs that are not finite.
    """
    arch, ops = checkpoint.arch, StreamingOps(device)
    embed(arch, checkpoint.tensors["token_embd.weight"], rows, hidden)
    source = OriginalLayers(checkpoint, ops.device, streamed=True, linears=linears)
    states = Carried(hidden, images=rows.images, tokens=tokens)
    for layer, squares in forward(ops, source, states, lambda layer: Squares(layer, ops.device)):
        yield from measured(layer, squares)
        progress("layers", layer.index + 1, arch.layers, "")
        del layer, squares
    if arch.score_head is None:  # else it is not rounded
        text = rows.text
        yield arch.head, head(ops, checkpoint, hidden, text, tokens), int(text.sum())


def collect_cost(checkpoint: Checkpoint, rows: Rows, way: Way) -> Cost:
    """Of `collect`, in a way of run/way.py."""
    arch, states = checkpoint.arch, FLOAT * rows.size * checkpoint.arch.hidden
    costs = []
    for index in range(arch.layers):
        spec = arch.layer(index)
        layer = one_by_one_bytes(spec) if way.streamed else streamed_bytes(spec)
        memory = layer + activation_bytes(spec, at_once(*rows.shape))
        costs.append(Cost(memory=in_memory(states, way.states) + memory, what=f"blk.{index}"))
    return in_turn(costs)


def measured(layer: Layer, squares: Squares) -> Iterator[Measured]:
    """The weights of a layer; linears of a group read the same input."""
    experts: dict[str, list[tuple[np.ndarray, int]]] = {}
    for group in layer.spec.groups:
        names = [f"blk.{layer.index}.{linear}.weight" for linear in group.linears]
        mean, count = squares.mean(group, names[0]), squares.counts[group.name]
        for name in names:
            if group.expert is None:
                yield name, mean, count
            else:
                experts.setdefault(name, []).append((mean, count))
    for name, every in experts.items():
        means, counts = zip(*every, strict=True)
        yield name, np.stack(means), counts


def head(
    ops: TorchOps,
    checkpoint: Checkpoint,
    hidden: np.ndarray,
    text: np.ndarray,
    tokens: int = TOKENS,
) -> np.ndarray:
    """Mean squared input of the output head, (D,): final states (rows, T, D), normed.

    Those of `text` (rows, T) count, as in `head_hessian`.
    """
    length, width = hidden.shape[1:]
    norm = ops.load(checkpoint.tensors["output_norm.weight"])
    squares = torch.zeros(width, dtype=torch.float64, device=ops.device)
    predict = np.flatnonzero(text)
    for part in batches(len(predict), max(1, tokens // length) * length):
        x = fetch(hidden.reshape(-1, width), predict[part], ops.device)
        normed = ops.rmsnorm(x, norm, checkpoint.arch.eps)
        squares += normed.square().sum(0, dtype=torch.float64)
    return as_mean(checkpoint.arch.head, squares, len(predict))


def as_mean(name: str, squares: torch.Tensor, tokens: int) -> np.ndarray:
    """Sums over tokens -> means, float32. Raises EdgequantError when one is NaN or infinite."""
    mean = (squares / tokens).float()
    if not bool(torch.isfinite(mean).all()):
        raise CorruptFileError(
            f"{name} reads inputs that are NaN or too large for float32; the checkpoint is damaged:"
            " download it again."
        )
    return mean.cpu().numpy()
