"""Experts' weights that stay where they are stored: a matrix is decoded each time it is needed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from quantize.checkpoint import check_finite
from runtime.backends.torch import TorchOps
from runtime.tensor import Tensor


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
class StreamedMatrix:
    """The matrix of one expert, not decoded yet."""

    weight: Streamed
    expert: int


class StreamingOps(TorchOps):
    """TorchOps through which gradients pass without a decoded expert being kept for them."""

    def expert(self, weight: Any, index: int) -> Any:
        if isinstance(weight, Streamed):
            return StreamedMatrix(weight, index)
        return super().expert(weight, index)

    def matmul(self, x: torch.Tensor, weight: Any, bias: torch.Tensor | None) -> torch.Tensor:
        if isinstance(weight, StreamedMatrix):
            found: torch.Tensor = _Product.apply(x, weight)  # type: ignore[no-untyped-call]
            return found
        return super().matmul(x, weight, bias)


class _Product(torch.autograd.Function):
    """x (n, in) times a matrix, which is decoded again on the way back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, matrix: StreamedMatrix) -> torch.Tensor:
        ctx.matrix = matrix
        return functional.linear(x, matrix.weight[matrix.expert])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0] @ ctx.matrix.weight[ctx.matrix.expert], None
