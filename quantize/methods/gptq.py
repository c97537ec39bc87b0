"""GPTQ (Frantar et al. 2022): round columns left to right, pushing errors onto those to come.

With U upper triangular and H^-1 = U^T U, the original text divides a column's error by its
U[j, j] and takes it times U[j, k] from every column k to come. Nothing here needs the inverse: with
R = U^-1, so that H = R R^T, all errors E = W - V of the columns before a window change it by

    E[:, before] R[before, window] U[window, window]

and the last factor is the inverse of a small triangle. So one Cholesky factoring is enough.
"""

from collections.abc import Callable

import numpy as np
import torch

from quantize.methods.base import HessianFactor, Method, Rounded, SingularHessian
from quantize.methods.fixed_order import factor_in_place, sum_of
from quantize.methods.rtn import rtn
from runtime.compiled import kernels_read
from runtime.quant_types import Params, QuantType, join, normalize_importance

WINDOW = 128
"""Columns that get the errors of all columns before at once (lazy batching)."""
PIECE = 1 << 18
"""Numbers that `reverse` moves at a time."""


def factor(
    hessian: torch.Tensor, damp: float = 0.01, restore: Callable[..., None] | None = None
) -> HessianFactor:
    """R upper triangular with R R^T the damped Hessian (in, in), and the importance.

    Starts from `damp` times the mean diagonal, ten times more while Cholesky fails, up to 1. With
    `restore`, which writes H into its array again, R takes its place. A column without input (zero
    diagonal) takes no part. Raises SingularHessian.
    """
    diagonal = hessian.diagonal().clone()
    dead = diagonal == 0
    mean = sum_of(diagonal) / max(1, int((~dead).sum()))
    while mean > 0 and damp <= 1:
        # H with its order reversed is L L^T; L reversed is R. All of it happens in one array: H
        # takes gigabytes in a large model, and new memory costs as much as a pass over it.
        damped = reverse(hessian) if restore else hessian.flip(0, 1)
        damped.diagonal().add_(torch.where(dead, mean, damp * mean).to(hessian.dtype).flip(0))
        # whatever is not finite comes through to the diagonal
        if factor_in_place(damped) and bool(torch.isfinite(damped.diagonal()).all()):
            root = reverse(damped)
            importance = torch.where(dead, 0.0, root.diagonal().square())
            return HessianFactor(importance, root, damp, None if restore else hessian, damp * mean)
        damp *= 10
        if restore:
            restore(hessian)
    raise SingularHessian


def reverse(matrix: torch.Tensor) -> torch.Tensor:
    """Turn the order of a contiguous matrix's rows and columns around, in place."""
    flat, count = matrix.view(-1), matrix.numel()
    for start in range(0, count // 2, PIECE):
        stop = min(start + PIECE, count // 2)
        front, back = flat[start:stop], flat[count - stop : count - start]
        saved = front.flip(0)
        front.copy_(back.flip(0))
        back.copy_(saved)
    return matrix


def gptq(weight: torch.Tensor, qtype: QuantType, factor: HessianFactor | None) -> Rounded:
    """Round weight (out, in) column by column against the factored Hessian.

    The grid of each block is fitted when the column pointer reaches it, on the weights as updated
    so far.
    """
    if qtype.is_float or factor is None or factor.root is None:
        return rtn(weight, qtype, factor)
    root = factor.root
    value, error = torch.empty_like(weight), torch.empty_like(weight)
    codes = torch.empty(weight.shape, dtype=torch.int32, device=weight.device)
    params: list[Params] = []
    window = max(WINDOW, qtype.size)
    round_window = native_window if runs_native(qtype, weight, root) else torch_window
    for start in range(0, weight.shape[1], window):
        here = slice(start, min(start + window, weight.shape[1]))
        square = root[here, here]
        eye = torch.eye(len(square), dtype=square.dtype, device=square.device)
        U = torch.linalg.solve_triangular(square, eye, upper=True)
        W = weight[:, here] + error[:, :start] @ root[:start, here] @ U
        out = (codes[:, here], value[:, here])
        params.append(round_window(qtype, W, factor.importance[here], U, out))
        torch.sub(weight[:, here], value[:, here], out=error[:, here])
    return Rounded(codes, join(params), value)


Output = tuple[torch.Tensor, torch.Tensor]
"""Codes int32 and values (out, columns), to be filled."""


def torch_window(
    qtype: QuantType,
    W: torch.Tensor,
    importance: torch.Tensor,
    U: torch.Tensor,
    out: Output,
) -> Params:
    """Round the columns of a window; returns its params.

    W (out, columns), changed in place, is the weight as updated for all columns before;
    importance (columns,) and U (columns, columns) are those of the window.
    """
    codes, value = out
    params = []
    for first in range(0, W.shape[1], qtype.size):
        here = slice(first, first + qtype.size)
        params.append(qtype.fit(W[:, here], importance[here]))
        scale, offset = qtype.grid(params[-1])
        for at in range(first, first + qtype.size):
            col, inside = slice(at, at + 1), slice(at - first, at - first + 1)
            codes[:, col] = qtype.code(W[:, col], scale[:, inside], offset[:, inside])
            value[:, col] = qtype.value(codes[:, col], scale[:, inside], offset[:, inside])
            error = (W[:, col] - value[:, col]) / U[at, at]
            W[:, at + 1 :] -= error * U[at, at + 1 :]
    return join(params)


def runs_native(qtype: QuantType, *arrays: torch.Tensor) -> bool:
    """Whether C++ can do the work: the block has a search there, for float32 on the CPU."""
    return qtype.native is not None and kernels_read(*arrays)


def native_window(
    qtype: QuantType,
    W: torch.Tensor,
    importance: torch.Tensor,
    U: torch.Tensor,
    out: Output,
) -> Params:
    """The same in C++: equal codes, params and values; W stays as it is."""
    assert qtype.native
    weight = normalize_importance(np, importance.numpy(), W.shape[1], qtype.size, qtype.floor)
    arrays = (a.numpy() for a in (U.contiguous(), *out))
    params = qtype.native.gptq(W.numpy(), weight, *arrays)
    return {key: torch.from_numpy(stored) for key, stored in params.items()}


Method(
    "gptq",
    "error feedback against the Hessian of the inputs",
    calibrated=True,
    round=gptq,
    factor=factor,
)
