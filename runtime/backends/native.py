"""The fast engine on a CPU: C++ kernels (runtime/native) multiply with weights that stay packed."""

from dataclasses import dataclass

import numpy as np

from runtime.backends.numpy import NumpyOps
from runtime.engine import OpsEngine
from runtime.errors import EdgequantError
from runtime.model import Model
from runtime.tensor import Tensor

try:
    import runtime._native as _native
except ImportError as error:
    raise EdgequantError(
        "the native backend is not compiled; run `pip install -e .` in the project's folder, "
        "or use another backend."
    ) from error

TYPES = frozenset(_native.types())
"""Block layouts that have a kernel."""


@dataclass(frozen=True)
class Packed:
    """A weight (rows, cols) that the kernels can read."""

    kind: str
    data: np.ndarray
    """uint8 (rows, row_bytes), C-contiguous."""
    cols: int


class NativeOps(NumpyOps):
    """Ops on numpy arrays, with the kernels where the time goes."""

    def load(self, tensor: Tensor) -> np.ndarray | Packed:  # type: ignore[override]
        if len(tensor.shape) == 1:
            return np.ascontiguousarray(tensor.decode())
        if tensor.block.name not in TYPES:
            # the layout's own definition decodes it, once: slower and larger, never different
            tensor = Tensor.dense(tensor.name, tensor.decode())
        return Packed(tensor.block.name, np.ascontiguousarray(tensor.data), tensor.shape[1])

    def embed(self, weight: Packed, ids: np.ndarray) -> np.ndarray:  # type: ignore[override]
        rows = _native.decode(weight.kind, weight.data[ids.reshape(-1)], weight.cols)
        return np.asarray(rows.reshape(*ids.shape, weight.cols))

    def matmul(  # type: ignore[override]
        self, x: np.ndarray, weight: Packed, bias: np.ndarray | None
    ) -> np.ndarray:
        flat = np.ascontiguousarray(x.reshape(-1, weight.cols))
        out = _native.matvec(weight.kind, weight.data, weight.cols, flat)
        out = out.reshape(*x.shape[:-1], -1)
        return np.asarray(out if bias is None else out + bias)


def open(model: Model, threads: int | None = None) -> OpsEngine:
    """Run a model on the kernels, with `threads` threads for the whole process (None = as before).

    Raises EdgequantError for less than one thread.
    """
    if threads is not None:
        _native.set_threads(threads)
    return OpsEngine(model, NativeOps())
