"""Weights that stay where they are stored: what is needed of them is decoded each time.

Experts, of which one matrix is needed at a time (`Streamed`), and linears, of which some rows are
(`StreamedLinear`).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from quantize.checkpoint import check_finite
from quantize.run.cost import FLOAT
from runtime.backends.torch import TorchOps
from runtime.memory import drop_pages
from runtime.tensor import Shape, Tensor

DECODED = 1 << 24
"""Weights of a linear that are decoded at a time."""
ROWS = 256
"""Rows come in multiples of it: BLAS then computes each output as in a product with all rows."""
COPIES = 3
"""Copies of decoded weights while they are decoded and changed."""

Change = Callable[[torch.Tensor, slice], torch.Tensor]
"""Some rows of a weight as they were, (rows, in), and which they are -> as they are."""


@dataclass(frozen=True)
class Streamed:
    """A weight of experts; `matrix` gives that of one as it is stored.

    Raises EdgequantError for NaN or infinity when one is decoded.
    """

    matrix: Callable[[int], Tensor]
    device: torch.device

    def __getitem__(self, expert: int) -> torch.Tensor:
        """The matrix of one expert, (out, in) float32."""
        tensor = self.matrix(expert)
        values = torch.from_numpy(np.array(tensor.decode()))
        check_finite(tensor, values)
        return values.to(self.device)


@dataclass(frozen=True)
class StreamedLinear:
    """A weight (out, in) of a linear; `tensor` gives it as it is stored.

    Raises EdgequantError for NaN or infinity when rows are decoded.
    """

    tensor: Callable[[], Tensor]
    shape: Shape
    device: torch.device
    changes: tuple[Change, ...] = ()
    """What was done to it since, first to last."""
    decoded: int = DECODED

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __mul__(self, scale: torch.Tensor) -> "StreamedLinear":
        """Its columns times scale (in,)."""
        return replace(self, changes=(*self.changes, lambda rows, here: rows * scale))

    def __truediv__(self, scale: torch.Tensor) -> "StreamedLinear":
        """Its rows divided by scale (out, 1)."""
        return replace(self, changes=(*self.changes, lambda rows, here: rows / scale[here]))

    def blocks(self, slices: Iterable[slice]) -> Iterator[tuple[slice, torch.Tensor]]:
        """Some rows at a time, (rows, in) float32, and which they are."""
        tensor = self.tensor()
        for here in slices:
            values = torch.from_numpy(np.array(tensor.decode(here.start, here.stop)))
            drop_pages([tensor.data])
            check_finite(tensor, values)
            values = values.to(self.device)
            for change in self.changes:
                values = change(values, here)
            yield here, values
            del values

    def parts(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """All rows, `decoded` weights at a time and up to twice as many in the end."""
        return self.blocks(slices(self.shape, self.decoded))

    def whole(self) -> torch.Tensor:
        """(out, in) float32."""
        found = torch.empty(self.shape, device=self.device)
        for here, rows in self.parts():
            found[here] = rows
        return found

    def product(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """x (..., in) -> (..., out), the same numbers as with the whole weight."""
        found = x.new_empty(*x.shape[:-1], len(self))
        for here, rows in self.parts():
            found[..., here] = functional.linear(x, rows, None if bias is None else bias[here])
        return found


def slices(shape: Shape, decoded: int) -> list[slice]:
    """The rows of a matrix about `decoded` weights at a time: multiples of ROWS, and in the end
    what is left as well."""
    rows, cols = shape
    step = max(1, decoded // (ROWS * cols)) * ROWS
    starts = [*range(0, rows - step + 1, step)] or [0]
    return [slice(*pair) for pair in zip(starts, [*starts[1:], rows], strict=True)]


def block_bytes(shape: Shape) -> int:
    """Bytes that `StreamedLinear.parts` takes of a matrix."""
    most = max(here.stop - here.start for here in slices(shape, DECODED))
    return FLOAT * COPIES * most * shape[1]


def whole(weight: torch.Tensor | StreamedLinear) -> torch.Tensor:
    """A weight, decoded where it was not yet."""
    return weight.whole() if isinstance(weight, StreamedLinear) else weight


@dataclass(frozen=True)
class StreamedMatrix:
    """The matrix of one expert, not decoded yet."""

    weight: Streamed
    expert: int

    def whole(self) -> torch.Tensor:
        """(out, in) float32."""
        return self.weight[self.expert]


class StreamingOps(TorchOps):
    """TorchOps for streamed weights, through which gradients pass without one being kept."""

    def expert(self, weight: Any, index: int) -> Any:
        if isinstance(weight, Streamed):
            return StreamedMatrix(weight, index)
        return super().expert(weight, index)

    def matmul(self, x: torch.Tensor, weight: Any, bias: torch.Tensor | None) -> torch.Tensor:
        if isinstance(weight, StreamedLinear) and not (torch.is_grad_enabled() and x.requires_grad):
            return weight.product(x, bias)
        if isinstance(weight, StreamedMatrix | StreamedLinear):
            found: torch.Tensor = _Product.apply(x, weight, bias)  # type: ignore[no-untyped-call]
            return found
        return super().matmul(x, weight, bias)


class _Product(torch.autograd.Function):
    """x (..., in) times a weight, which is decoded again on the way back; biases get none."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: StreamedMatrix | StreamedLinear,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.weight = weight
        if isinstance(weight, StreamedLinear):
            return weight.product(x, bias)
        return functional.linear(x, weight.whole(), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradients[0] @ ctx.weight.whole(), None, None
