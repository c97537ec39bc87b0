"""The walk over the decoder layers: load one, run the hidden states through it, go on.

Whoever needs something of the layers reads it from this walk, as an observer of the inputs that
linears share: Hessians, importance matrices, gradients, error compensation, tuning, the effect of
one part. One layer is in memory at a time, whatever the number of layers; the hidden states of all
windows are too, or lie on disk when they are large.

    states = Carried(hidden)
    for layer, observer in forward(ops, source, states, observe=...):
        ...                      # the layer is computed, the states stand behind it
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from quantize.calibration.rows import Images, placed
from quantize.calibration.rows import batches as batches
from quantize.calibration.states import fetch, put, put_all
from quantize.calibration.streamed import Streamed, StreamedLinear
from quantize.calibration.watch import behind, watch
from quantize.calibration.workers import HERE, Batch, Workers
from quantize.checkpoint import Checkpoint, check_finite
from runtime.archs import Arch
from runtime.backends.torch import TorchOps
from runtime.forward import NOBODY, Layer, Observer, Ops, decoder_layer

TOKENS = 2048
"""Tokens that go through a layer at a time."""
TOKENS_BACK = 1024
"""Tokens that go backwards at a time: activations of one layer are kept for them."""

Weights = dict[str, Any]
"""float32 tensors of one layer by their name within it ("attn_q.weight"); those of experts may be
`Streamed`, and those of linears `StreamedLinear`."""
Allocate = Callable[[str, tuple[int, ...]], np.ndarray]
"""name, shape -> float32 array, in memory or on disk."""

Seen = TypeVar("Seen", bound=Observer)


class LayerSource(Protocol):
    """Where the walk gets its layers from."""

    @property
    def arch(self) -> Arch:
        """Sizes of the model."""

    def layer(self, index: int) -> Layer:
        """One decoder layer, ready to compute."""


@dataclass(frozen=True)
class OriginalLayers:
    """The layers of a full-precision checkpoint, float32 on a device."""

    checkpoint: Checkpoint
    device: torch.device
    streamed: bool = False
    """Whether experts stay on the disk until one is needed."""
    linears: bool = False
    """Whether linears do, too."""

    @property
    def arch(self) -> Arch:
        return self.checkpoint.arch

    def layer(self, index: int) -> Layer:
        """Raises EdgequantError for NaN or infinity."""
        weights: Weights = {}
        spec, tensors = self.arch.layer(index), self.checkpoint.tensors
        for name, shape in spec.shapes.items():
            whole = f"blk.{index}.{name}"
            if self.streamed and len(shape) > 2:
                weights[name] = Streamed(partial(tensors.matrix, whole), self.device)
            elif self.linears and len(shape) == 2:
                read = partial(tensors.__getitem__, whole)
                weights[name] = StreamedLinear(read, shape, self.device)
            else:
                tensor = tensors[whole]
                values = torch.from_numpy(np.array(tensor.decode())).reshape(tensor.shape)
                check_finite(tensor, values)
                weights[name] = values.to(self.device)
        return Layer(spec, weights, index)


class StateSet(Protocol):
    """Hidden states that a layer takes further."""

    def advance(self, ops: Any, layer: Layer, observer: Observer) -> None:
        """Run them through the layer, before the observer's eyes."""


@dataclass
class Carried:
    """Hidden states (rows, T, D) that every layer replaces; `tokens` of them go at a time."""

    values: np.ndarray
    images: Images = field(default_factory=dict, kw_only=True)
    """Of rows that have some."""
    tokens: int = field(default=TOKENS, kw_only=True)
    workers: Workers = field(default=HERE, kw_only=True)

    def advance(self, ops: TorchOps, layer: Layer, observer: Observer = NOBODY) -> None:
        run(ops, layer, self.values, self.values, self.images, observer, self.tokens, self.workers)

    def look(self, ops: TorchOps, layer: Layer, observer: Observer) -> None:
        """Run them through the layer before the observer's eyes, and keep them as they are."""
        run(ops, layer, self.values, None, self.images, observer, self.tokens, self.workers)


@dataclass
class Prefix(Carried):
    """Hidden states behind rounded layers: the walk looks at a layer, `replace` goes through it."""

    def advance(self, ops: TorchOps, layer: Layer, observer: Observer = NOBODY) -> None:
        self.look(ops, layer, observer)

    def replace(self, ops: TorchOps, layer: Layer) -> None:
        """Go on through what the layer became."""
        run(ops, layer, self.values, self.values, self.images, workers=self.workers)


@dataclass
class Kept:
    """The states before every layer and after the last: (layers + 1, rows, T, D)."""

    values: np.ndarray
    images: Images = field(default_factory=dict, kw_only=True)

    def advance(self, ops: TorchOps, layer: Layer, observer: Observer) -> None:
        before, after = self.values[layer.index], self.values[layer.index + 1]
        run(ops, layer, before, after, self.images, observer)


def forward(
    ops: Ops,
    source: LayerSource,
    states: StateSet,
    observe: Callable[[Layer], Seen] | None = None,
    start: int = 0,
) -> Iterator[tuple[Layer, Seen]]:
    """Take states through the layers from `start` on; yields each when they are behind it.

    `observe` makes the observer of a layer, which is yielded beside it.
    """
    for index in range(start, source.arch.layers):
        layer = source.layer(index)
        observer: Any = observe(layer) if observe else NOBODY
        states.advance(ops, layer, observer)
        yield layer, observer
        del layer, observer  # the next one is loaded when this one is gone


class Gradients(Observer):
    """An observer of the way back: it says of what it wants the gradients, and is given them."""

    def wanted(self) -> dict[str, torch.Tensor]:
        """Tensors that took part in computing the layer, by a name."""
        return {}

    def take(self, rows: slice, gradients: dict[str, torch.Tensor]) -> None:
        """The gradients of what was wanted, from some rows of the states."""


def backward(
    ops: TorchOps,
    source: LayerSource,
    states: Kept,
    gradient: np.ndarray,
    observe: Callable[[Layer], Gradients] = lambda layer: Gradients(),
    tokens: int = TOKENS_BACK,
) -> Iterator[tuple[Layer, Any]]:
    """Take a gradient (rows, T, D) after the last layer to before the first, in place.

    Yields each layer with its observer when the gradient stands before it. `tokens` go through at a
    time.
    """
    count, length = gradient.shape[:2]
    for index in reversed(range(source.arch.layers)):
        layer = source.layer(index)
        observer = observe(layer)
        for here, positions in placed(count, length, tokens, states.images):
            x = fetch(states.values[index], here, ops.device).requires_grad_()
            after = decoder_layer(ops, layer, x, positions, observer=observer)
            wanted = observer.wanted()
            # of a sum, for autograd loads a library of symbols for a gradient of any other shape
            along = (after * fetch(gradient, here, ops.device)).sum()
            before, *found = torch.autograd.grad(along, [x, *wanted.values()])
            put(gradient, here, before.cpu().numpy())
            observer.take(here, dict(zip(wanted, found, strict=True)))
        yield layer, observer
        del layer, observer


def run(
    ops: TorchOps,
    layer: Layer,
    hidden: np.ndarray,
    after: np.ndarray | None,
    images: Images,
    observer: Observer = NOBODY,
    tokens: int = TOKENS,
    workers: Workers = HERE,
) -> None:
    """Hidden states (rows, T, D) through one layer, some tokens at a time.

    Results go to `after`, which may be `hidden` itself, unless it is None.
    """
    rows, length = hidden.shape[:2]
    places = list(placed(rows, length, tokens, images))
    parts = (Batch((hidden[here],), positions) for here, positions in places)
    found = workers.through(watch if after is None else take, ops, layer, parts, observer)
    put_all(after, (here for here, _ in places), found)


def take(ops: TorchOps, layer: Layer, batch: Batch, observer: Observer) -> np.ndarray:
    """A batch through a layer: its states behind it, (rows, T, D)."""
    return behind(ops, layer, batch.states[0], batch.positions, observer).cpu().numpy()
