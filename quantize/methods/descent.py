"""Coordinate descent: what rounding left is lowered on the true quadratic form.

The error of a linear's outputs is sum((W - V) H (W - V)^T). A pass goes over the blocks from left
to right; in each it takes the best scales for the codes (a small least squares problem), then, one
column after the other, the best code beside all the others. No step can raise the error. In this
way rounded weights reach what a single sweep of error feedback cannot: columns that were rounded
first see the errors of those that came later (as in the LDLQ refinement of QuIP, Chee et al. 2023).
"""

import torch

from quantize.methods.base import Rounded
from quantize.methods.gptq import WINDOW, runs_native
from runtime.quant_types import Params, QuantType, join

FLAT = 1e-6
"""Two basis vectors closer to parallel than this are not told apart: scales stay."""


def descend(
    weight: torch.Tensor, start: Rounded, qtype: QuantType, hessian: torch.Tensor, ridge: float
) -> Rounded:
    """One pass over weight (out, in), rounded as `start`, under hessian (in, in) + ridge * I.

    Works on transposes, (in, out), because columns are what it goes through.
    """
    target = weight.T.contiguous()
    value, codes = start.value.T.contiguous(), start.codes.T.contiguous()
    params = list(split(start.params))
    neg_half_grad = hessian @ (target - value) + ridge * (target - value)  # minus half the gradient
    window = max(WINDOW, qtype.size)
    for first in range(0, len(target), window):
        last = min(first + window, len(target))
        local = hessian[first:last, first:last].clone()
        local.diagonal().add_(ridge)
        before = value[first:last].clone()
        for at in range(first, last, qtype.size):
            inside = slice(at - first, at - first + qtype.size)
            place = slice(at, at + qtype.size)
            state = BlockState(qtype, codes[place], value[place], params[at // qtype.size])
            state.rescale(neg_half_grad[first:last], local, inside)
            state.recode(neg_half_grad[first:last], local, inside)
            params[at // qtype.size] = state.params
        moved = value[first:last] - before
        neg_half_grad[last:] -= hessian[last:, first:last] @ moved
    return Rounded(codes.T.contiguous(), join(params), value.T.contiguous())


def split(params: Params) -> list[Params]:
    """Params of a row -> params of each of its blocks; `join` puts them together again."""
    blocks = next(iter(params.values())).shape[1]
    return [{key: part[:, at : at + 1] for key, part in params.items()} for at in range(blocks)]


class BlockState:
    """One block of all rows: codes and value (size, out) are views that change in place."""

    def __init__(
        self, qtype: QuantType, codes: torch.Tensor, value: torch.Tensor, params: Params
    ) -> None:
        self.qtype, self.codes, self.value, self.params = qtype, codes, value, params

    def rescale(self, neg_half_grad: torch.Tensor, local: torch.Tensor, inside: slice) -> None:
        """The best `linear` params for the codes, where storing them still lowers the error.

        neg_half_grad (window, out) is kept up to date; local is its part of the Hessian.
        """
        keys, own = self.qtype.linear, local[inside, inside]
        basis = [b.T.to(local.dtype) for b in self.qtype.basis(self.codes.T, self.params)]
        rhs = torch.stack([(b * neg_half_grad[inside]).sum(0) for b in basis], -1)  # (out, keys)
        H_basis = [own @ b for b in basis]
        gram = torch.stack([torch.stack([(b * r).sum(0) for b in basis], -1) for r in H_basis], -1)
        old = torch.cat([self.params[key] for key in keys], -1)  # (out, keys) float32
        new = self.qtype.round_to_stored(old + solve(gram, rhs))
        step = (new - old).to(gram.dtype)
        change = (step * (torch.einsum("okl,ol->ok", gram, step) - 2 * rhs)).sum(-1)
        new = torch.where((change < 0)[:, None], new, old)
        self.params = self.params | {k: new[:, i : i + 1] for i, k in enumerate(keys)}
        scale, offset = self.qtype.grid(self.params)
        self.move(self.qtype.value(self.codes.T, scale, offset).T, neg_half_grad, local, inside)

    def recode(self, neg_half_grad: torch.Tensor, local: torch.Tensor, inside: slice) -> None:
        """The best code of each weight beside all others, column by column."""
        scale, offset = (x.T.contiguous() for x in self.qtype.grid(self.params))
        if self.qtype.native and runs_native(self.qtype, neg_half_grad, local, self.value):
            fixed = (a.numpy() for a in (scale, offset, local.T.contiguous()))
            state = (a.numpy() for a in (self.codes, self.value, neg_half_grad))
            self.qtype.native.rounder.recode(*fixed, inside.start, *state)
            return
        for at in range(len(self.value)):
            column = inside.start + at
            best = self.value[at] + neg_half_grad[column] / local[column, column]
            self.codes[at] = self.qtype.code(best, scale[at], offset[at])
            new_value = self.qtype.value(self.codes[at], scale[at], offset[at])
            step = new_value - self.value[at]
            self.value[at] = new_value
            neg_half_grad -= local[:, column, None] * step

    def move(
        self,
        new_value: torch.Tensor,
        neg_half_grad: torch.Tensor,
        local: torch.Tensor,
        inside: slice,
    ) -> None:
        """Replace the value of the whole block."""
        neg_half_grad -= local[:, inside] @ (new_value - self.value)
        self.value.copy_(new_value)


def solve(gram: torch.Tensor, rhs: torch.Tensor) -> torch.Tensor:
    """Solutions (out, keys) of gram (out, keys, keys) x = rhs, for one or two keys; 0 if flat."""
    if rhs.shape[1] == 1:
        energy = gram[:, 0]
        return torch.where(energy > 0, rhs / torch.where(energy > 0, energy, 1.0), 0.0)
    (a, b), d = (gram[:, 0, 0], gram[:, 0, 1]), gram[:, 1, 1]
    spread = a * d - b * b
    flat = spread <= FLAT * a * d
    x = torch.stack([d * rhs[:, 0] - b * rhs[:, 1], a * rhs[:, 1] - b * rhs[:, 0]], -1)
    return torch.where(flat[:, None], 0.0, x / torch.where(flat, 1.0, spread)[:, None])
