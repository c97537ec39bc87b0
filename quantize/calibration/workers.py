"""Who computes the pieces of a walk: this process, or workers elsewhere (quantize/scale).

A layer is gone through batch by batch, and rounded group by group, some rows at a time. The pieces
are the same wherever they are computed, and their sums are added in their order: no byte of a
result says how many workers there were.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import starmap
from typing import Any, Protocol

import numpy as np

from runtime.backends.torch import TorchOps
from runtime.forward import Layer, Positions
from runtime.tensor import Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows on their way through a layer."""

    states: tuple[np.ndarray, ...]
    """One set of states (rows, T, D), or those of two models."""
    positions: Positions
    held: tuple[int, ...] = ()
    """Rows of the batch that are held back (compensation.py)."""


Step = Callable[[TorchOps, Layer, Batch, Any], np.ndarray | None]
"""What is done with a batch before the eyes of an observer: its states behind the layer (rows, T,
D), or None where nobody wants them. A function of a module, which workers import."""


@dataclass
class RoundedLayer(Layer):
    """A layer of which workers read what it became in the file; `weights` may be empty."""

    packed: Mapping[str, Tensor] = field(default_factory=dict)
    """By the name within the layer."""


class Workers(Protocol):
    """Computes pieces, in any order, and gives their results in the order of the pieces."""

    @property
    def reads_packed(self) -> bool:
        """Whether a rounded layer comes as a RoundedLayer: then nobody needs its values."""

    def through(
        self, step: Step, ops: TorchOps, layer: Layer, batches: Iterable[Batch], observer: Any
    ) -> Iterator[np.ndarray | None]:
        """What `step` makes of each batch. The observer gets the sums of one after the other."""

    def map(
        self, function: Callable[..., Any], shared: Any, pieces: Iterable[tuple]
    ) -> Iterator[Any]:
        """function(shared, *piece) of each piece."""

    def map_kept(
        self, function: Callable[..., tuple[Any, Any]], shared: Any, pieces: Iterable[tuple]
    ) -> Iterator[tuple[Any, Any]]:
        """The same of a function that tells something small beside its result, which stays where it
        was computed: it is only good as the `shared` of another call."""


class Here:
    """In this process, a piece when its result is asked for."""

    reads_packed = False

    def through(
        self, step: Step, ops: TorchOps, layer: Layer, batches: Iterable[Batch], observer: Any
    ) -> Iterator[np.ndarray | None]:
        return (step(ops, layer, batch, observer) for batch in batches)

    def map(
        self, function: Callable[..., Any], shared: Any, pieces: Iterable[tuple]
    ) -> Iterator[Any]:
        return starmap(partial(function, shared), pieces)  # a generator would keep the last piece

    map_kept = map


HERE = Here()
