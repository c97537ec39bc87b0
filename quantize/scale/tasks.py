"""What a Ray worker computes: one piece of a walk, of a checkpoint that it reads itself.

A worker keeps the checkpoint open, and the last layer that it went through.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch

from quantize.calibration.stream import OriginalLayers
from quantize.calibration.workers import Batch, Step
from quantize.checkpoint import Checkpoint
from quantize.run.version import code_version
from quantize.scale.facts import Source, opened
from quantize.scale.sizes import nbytes
from quantize.scale.tensors import received, sent
from runtime.backends.torch import TorchOps
from runtime.compiled import kernels
from runtime.errors import InputError
from runtime.forward import NOBODY, Layer
from runtime.tensor import Tensor

CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Packed:
    """A rounded layer on its way to workers."""

    key: str
    """Says which one: a worker decodes it once."""
    index: int
    tensors: dict[str, Tensor]
    """By the name within the layer."""


def run_batch(
    source: Source, layer: int | Packed, step: Step, batch: Batch, observer: type | None
) -> tuple[np.ndarray | None, Any]:
    """A batch through a layer, the original's of that index or a rounded one.

    Returns its states behind the layer, and what an observer of that class has summed.
    """
    checkpoint = prepared(source)
    ready = original(source, layer) if isinstance(layer, int) else rounded(checkpoint, layer)
    seen: Any = observer(ready.spec, CPU) if observer else NOBODY
    states = step(TorchOps(), ready, batch, seen)
    return states, seen.batch_sums() if observer else None


def run_piece(source: Source, function: Callable[..., Any], shared: Any, piece: tuple) -> Any:
    """One piece of what is mapped."""
    prepared(source)
    return function(shared, *piece)


def run_kept(
    source: Source, function: Callable[..., tuple[Any, Any]], shared: Any, piece: tuple
) -> tuple[tuple[Any, int], Any]:
    """The same of a function whose result stays: what it tells, and the bytes of the result."""
    told, result = run_piece(source, function, shared, piece)
    return (told, nbytes(result)), result


@cache
def prepared(source: Source) -> Checkpoint:
    """The checkpoint, once this process is sure to compute what every other does.

    Raises EdgequantError for other code or another checkpoint: a node may have come later than
    the check of all nodes.
    """
    import ray

    ray.util.register_serializer(torch.Tensor, serializer=sent, deserializer=received)
    torch.set_num_threads(source.threads)
    if kernels:
        kernels.set_threads(source.threads)
    checkpoint = opened(source)
    if code_version() != source.code or checkpoint.fingerprint() != source.fingerprint:
        raise InputError(
            "a Ray node that came later has another edgequant or another checkpoint; take it out "
            "of the cluster and run the same command again: it goes on after the last layer."
        )
    return checkpoint


@lru_cache(maxsize=1)
def original(source: Source, index: int) -> Layer:
    """A layer of the checkpoint, ready to compute."""
    return OriginalLayers(prepared(source), CPU).layer(index)


_last: dict[str, Layer] = {}
"""The last rounded layer, by its key."""


def rounded(checkpoint: Checkpoint, layer: Packed) -> Layer:
    """A rounded layer, ready to compute."""
    if layer.key not in _last:
        original.cache_clear()  # its room is needed now
        _last.clear()
        weights = {n: torch.from_numpy(np.array(t.decode())) for n, t in layer.tensors.items()}
        _last[layer.key] = Layer(checkpoint.arch.layer(layer.index), weights, layer.index)
    return _last[layer.key]
