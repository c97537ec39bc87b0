"""The fast engine on a CPU: C++ kernels (runtime/native) multiply with weights that stay packed."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock, Thread
from typing import Any

import numpy as np

from runtime import background
from runtime.archs import Arch, Attention, GatedMLP, MoE, Norm, Residual
from runtime.backends.numpy import NumpyOps
from runtime.engine import OpsEngine, check_kv
from runtime.errors import UnsupportedError
from runtime.memory import (
    copy_to_huge_pages,
    drop_pages,
    has_room,
    mapping_of,
    require_memory,
)
from runtime.model import Model
from runtime.scores import scored
from runtime.tensor import Tensor

try:
    import runtime._native as _native
except ImportError as error:
    raise UnsupportedError(
        "the native backend is not compiled; run `pip install -e .` in the project's folder, "
        "or use another backend."
    ) from error

TYPES = frozenset(_native.types())
"""Block layouts that have a kernel."""

COMPUTED = (Norm, Attention, GatedMLP, MoE, Residual)
"""Ops of a layer that runtime/native/decoder.cpp computes."""

PURPOSES = {"generation": {"resident": True}, "judging": {"kv": "f32"}}


@dataclass(frozen=True)
class NativeWeight:
    """A weight (rows, cols) that the kernels can read."""

    type_name: str
    data: np.ndarray
    """uint8 (rows, row_bytes), C-contiguous."""
    cols: int
    experts: int = 1
    """Matrices of as many rows each."""
    order: np.ndarray | None = None
    """See `Tensor.order`."""


class NativeOps(NumpyOps):
    """NumPy ops with native products, for single layers run on weights that the caller supplies."""

    def load(self, tensor: Tensor) -> np.ndarray | NativeWeight:  # type: ignore[override]
        if not tensor.is_matrix:
            return np.array(tensor.decode())  # of a mapped F32 tensor that would be a view
        order = None if tensor.order is None else np.ascontiguousarray(tensor.order, np.int32)
        tensor = tensor.as_packed().scaled()
        if same := tensor.qtype.widened(tensor.data):
            tensor = Tensor(tensor.name, tensor.shape, *same)
        if tensor.qtype.name not in TYPES:
            # the layout's own definition decodes it, once: slower and larger, never different
            values = tensor.decode().reshape(tensor.shape)
            tensor = Tensor.dense(tensor.name, values)
        data, experts = np.ascontiguousarray(tensor.data), math.prod(tensor.shape[:-2])
        return NativeWeight(tensor.qtype.name, data, tensor.cols, experts, order)

    def embed(self, weight: NativeWeight, ids: np.ndarray) -> np.ndarray:  # type: ignore[override]
        rows = _native.decode(weight.type_name, weight.data[ids.reshape(-1)], weight.cols)
        return np.asarray(rows.reshape(*ids.shape, weight.cols))

    def expert(self, weight: NativeWeight, index: int) -> NativeWeight:  # type: ignore[override]
        rows = len(weight.data) // weight.experts
        return replace(weight, data=weight.data[index * rows : (index + 1) * rows], experts=1)

    def matmul(  # type: ignore[override]
        self, x: np.ndarray, weight: NativeWeight, bias: np.ndarray | None
    ) -> np.ndarray:
        flat = x.reshape(-1, weight.cols)
        flat = np.ascontiguousarray(flat if weight.order is None else flat[:, weight.order])
        out = _native.matmul(weight.type_name, weight.data, weight.cols, flat)
        out = out.reshape(*x.shape[:-1], -1)
        return np.asarray(out if bias is None else out + bias)


def check_ops(arch: Arch) -> None:
    """Raise EdgequantError naming the first op that the C++ does not compute."""
    for index in range(arch.layers):
        for op in arch.layer(index).ops:
            capped = isinstance(op, Attention) and op.soft_cap is not None
            if capped or not isinstance(op, COMPUTED):
                what = "a soft cap on attention scores" if capped else type(op).__name__
                raise UnsupportedError(
                    f"blk.{index} has {what}, which the native backend does not compute; "
                    "use --backend numpy or torch."
                )


class NativeEngine(OpsEngine):
    """A model whose forward is one call of C++."""

    def __init__(self, model: Model, kv: str, resident: bool, exact: bool) -> None:
        check_ops(model.arch)
        super().__init__(model, NativeOps())
        self.exact = exact
        self.halves = kv == "f16"
        mapped = {
            name: weight.data
            for name, weight in self.weights.items()
            if isinstance(weight, NativeWeight) and mapping_of(weight.data)
        }
        self.mapped = sum(data.nbytes for data in mapped.values())
        """Bytes of weights that memory must still be found for."""
        require_memory(self.mapped)
        self.turn = Lock()
        self.decoder = self.decoder_of(self.weights)
        self.moving: Thread | None = None
        if resident and mapped and has_room(self.mapped):
            # the first tokens need not wait for it, and a program that ends does not either
            self.moving = background.start(partial(self.move_to_huge_pages, mapped))

    def decoder_of(self, weights: dict[str, Any]) -> Any:
        """The forward in C++, which reads the weights where they lie."""
        arch = self.arch
        return _native.Decoder(
            weights,
            head="" if arch.score_head else arch.head.removesuffix(".weight"),
            vocab=arch.vocab,
            hidden=arch.hidden,
            output_norm=arch.output_norm,
            layers=[arch.layer(index).ops for index in range(arch.layers)],
            embedding_scale=arch.embedding_scale,
        )

    def move_to_huge_pages(self, mapped: dict[str, np.ndarray]) -> None:
        """Go on with copies of the weights in huge pages, and drop the file's pages."""
        arrays = list(mapped.values())
        copies = dict(zip(mapped, copy_to_huge_pages(arrays, self.copied), strict=True))
        weights = self.weights | {
            name: replace(self.weights[name], data=data) for name, data in copies.items()
        }
        decoder = self.decoder_of(weights)
        with self.turn:  # a forward that is under way would have the pages read again
            self.weights, self.decoder = weights, decoder
            drop_pages(arrays)

    def copied(self, count: int) -> None:
        """Note that so many bytes have their memory: a new cache need not leave room for them."""
        self.mapped -= count
        background.stop_if_ending()

    def new_cache(self, batch: int, capacity: int) -> Any:
        """An empty cache.

        Raises EdgequantError when weights and cache do not fit in memory, or for sizes below 1.
        """
        require_memory(
            self.mapped, self.decoder.cache_bytes(batch, capacity, self.halves), capacity
        )
        return self.decoder.new_cache(batch, capacity, self.halves)

    def logits(self, ids: np.ndarray, cache: Any = None, last: bool = False) -> np.ndarray:
        """ids (B, T) -> float32 (B, T, V); with `last` (B, 1, V). A cache is advanced by T.

        Raises EdgequantError for ids outside the vocabulary, and when the cache is full.
        """
        ids = np.ascontiguousarray(ids, np.int64)
        with self.turn, exactly(self.exact):
            found = np.asarray(self.decoder.logits(ids, cache, self.halves, last))
            head = self.arch.score_head  # so small that it is not worth a line of C++
            return scored(self.ops, head, self.weights, found) if head else found


@contextmanager
def exactly(wanted: bool) -> Iterator[None]:
    """Products without rounded activations in what follows, where that is wanted."""
    before = _native.exact()
    _native.set_exact(wanted or before)
    try:
        yield
    finally:
        _native.set_exact(before)


def open(
    model: Model,
    threads: int | None = None,
    kv: str | None = None,
    resident: bool = False,
    exact: bool = False,
) -> NativeEngine:
    """Run a model on the kernels, with `threads` threads for the whole process (None = as before).

    `kv` is how keys and values are kept: "f16", or "f32" for twice the memory. None is "f16", or of
    a model that scores texts, which keeps none from call to call, "f32". `resident` copies mapped
    weights into huge pages, where there is room, while the first tokens are computed: those after
    them are generated faster. `exact` leaves activations in float32, which is slow.
    Raises EdgequantError for less than one thread, or another kind of cache.
    """
    if kv is None:
        kv = "f32" if model.arch.score_head else "f16"
    check_kv(kv)
    if threads is not None:
        _native.set_threads(threads)
    return NativeEngine(model, kv, resident, exact)
