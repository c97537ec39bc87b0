"""GPTQ (Frantar et al. 2022): round columns left to right, pushing errors onto those to come."""

import torch

from quantize.methods.base import Factor, Method, Rounded, SingularHessian
from quantize.methods.rtn import rtn
from runtime.blocks import Block, Params, join

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
    for start in range(0, weight.shape[1], window):
        stop = min(start + window, weight.shape[1])
        panel = rest[:, start:stop]
        errors = torch.empty_like(panel)
        for first in range(start, stop, block.size):
            here = slice(first - start, first - start + block.size)
            params.append(block.fit(panel[:, here], factor.importance[first : first + block.size]))
            scale, offset = block.grid(params[-1])
            for col in range(first, first + block.size):
                at, inside = col - start, slice(col - first, col - first + 1)
                column = panel[:, at : at + 1]
                codes[:, col : col + 1] = block.code(column, scale[:, inside], offset[:, inside])
                value[:, col : col + 1] = block.value(
                    codes[:, col : col + 1], scale[:, inside], offset[:, inside]
                )
                errors[:, at : at + 1] = (column - value[:, col : col + 1]) / upper[col, col]
                panel[:, at + 1 :] -= errors[:, at : at + 1] * upper[col, col + 1 : stop]
        rest[:, stop:] -= errors @ upper[start:stop, stop:]
    return Rounded(codes, join(params), value)


Method(
    "gptq",
    "error feedback against the Hessian of the inputs",
    calibrated=True,
    round=gptq,
    factor=factor,
)
