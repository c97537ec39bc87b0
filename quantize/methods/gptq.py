"""GPTQ (Frantar et al. 2022): round columns left to right, pushing errors onto those to come."""

import numpy as np
import torch

from quantize.methods.base import Factor, Method, Rounded, SingularHessian
from quantize.methods.rtn import rtn
from runtime.blocks import Block, Params, join, shares

WINDOW = 128
"""Columns whose updates are applied at once to the rest of the matrix (lazy batching)."""


def factor(hessian: torch.Tensor, damp: float = 0.01) -> Factor:
    """U upper triangular with H^-1 = U^T U, of the damped Hessian (in, in), and the importance.

    Starts from `damp` times the mean diagonal, ten times more while Cholesky fails, up to 1.
    A column without input (zero diagonal) takes no part. Raises SingularHessian.
    """
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    mean = float(diagonal[~dead].mean()) if bool((~dead).any()) else 0.0
    while mean > 0 and damp <= 1:
        # H reversed = L L^T makes H = M M^T with M = L reversed, upper; then U = M^-1:
        # one factoring instead of two. Few copies are kept: H takes gigabytes in a large model.
        damped = hessian.flip(0, 1)
        damped.diagonal().add_(torch.where(dead, mean, damp * mean).to(hessian.dtype).flip(0))
        factored, failed = torch.linalg.cholesky_ex(damped)
        del damped
        if not int(failed) and bool(torch.isfinite(factored).all()):
            factored = factored.flip(0, 1)
            eye = torch.eye(len(factored), dtype=factored.dtype, device=factored.device)
            upper = torch.linalg.solve_triangular(factored, eye, upper=True)
            importance = torch.where(dead, 0.0, upper.diagonal() ** -2)
            return Factor(importance, upper, damp, hessian, damp * mean)
        damp *= 10
    raise SingularHessian


def gptq(weight: torch.Tensor, block: Block, factor: Factor | None) -> Rounded:
    """Round weight (out, in) column by column against the factored Hessian.

    The grid of each block is fitted when the column pointer reaches it, on the weights as updated
    so far.
    """
    if block.is_float or factor is None or factor.upper is None:
        return rtn(weight, block, factor)
    upper = factor.upper
    rest = weight.clone()
    value = torch.empty_like(weight)
    codes = torch.empty(weight.shape, dtype=torch.int32, device=weight.device)
    params: list[Params] = []
    window = max(WINDOW, block.size)
    round_window = native_window if runs_native(block, weight, upper) else torch_window
    for start in range(0, weight.shape[1], window):
        here = slice(start, min(start + window, weight.shape[1]))
        part, errors = round_window(
            block,
            rest[:, here],
            factor.importance[here],
            upper[here, here],
            (codes[:, here], value[:, here]),
        )
        params.append(part)
        rest[:, here.stop :] -= errors @ upper[here, here.stop :]
    return Rounded(codes, join(params), value)


Chosen = tuple[torch.Tensor, torch.Tensor]
"""Codes int32 and values (out, columns), to be filled."""


def torch_window(
    block: Block,
    panel: torch.Tensor,
    importance: torch.Tensor,
    upper: torch.Tensor,
    chosen: Chosen,
) -> tuple[Params, torch.Tensor]:
    """Round the columns of a window, and what the columns after it are to be updated with.

    panel (out, columns), changed in place, is the weight as updated for all columns before;
    importance (columns,) and upper (columns, columns) are its parts of the factor. Returns params
    and errors (out, columns).
    """
    codes, value = chosen
    errors, params = torch.empty_like(panel), []
    for first in range(0, panel.shape[1], block.size):
        here = slice(first, first + block.size)
        params.append(block.fit(panel[:, here], importance[here]))
        scale, offset = block.grid(params[-1])
        for at in range(first, first + block.size):
            col, inside = slice(at, at + 1), slice(at - first, at - first + 1)
            codes[:, col] = block.code(panel[:, col], scale[:, inside], offset[:, inside])
            value[:, col] = block.value(codes[:, col], scale[:, inside], offset[:, inside])
            errors[:, col] = (panel[:, col] - value[:, col]) / upper[at, at]
            panel[:, at + 1 :] -= errors[:, col] * upper[at, at + 1 :]
    return join(params), errors


def runs_native(block: Block, *arrays: torch.Tensor) -> bool:
    """Whether C++ can do the work: the block has a search there, for float32 on the CPU."""
    on_cpu = all(a.device.type == "cpu" and a.dtype == torch.float32 for a in arrays)
    return block.native is not None and on_cpu


def native_window(
    block: Block,
    panel: torch.Tensor,
    importance: torch.Tensor,
    upper: torch.Tensor,
    chosen: Chosen,
) -> tuple[Params, torch.Tensor]:
    """The same in C++: equal codes, params, values and errors; panel stays as it is."""
    assert block.native
    errors = torch.empty(panel.shape)
    weight = shares(np, importance.numpy(), panel.shape[1], block.size, block.floor)
    arrays = (a.numpy() for a in (upper.contiguous(), *chosen, errors))
    params = block.native.gptq(panel.numpy(), weight, *arrays)
    return {key: torch.from_numpy(stored) for key, stored in params.items()}, errors


Method(
    "gptq",
    "error feedback against the Hessian of the inputs",
    calibrated=True,
    round=gptq,
    factor=factor,
)
