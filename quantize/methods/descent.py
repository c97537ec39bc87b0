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
from runtime.blocks import Block, Params, join

FLAT = 1e-6
"""Two basis vectors closer to parallel than this are not told apart: scales stay."""


def descend(
    weight: torch.Tensor, start: Rounded, block: Block, hessian: torch.Tensor, ridge: float
) -> Rounded:
    """One pass over weight (out, in), rounded as `start`, under hessian (in, in) + ridge * I.

    Works on transposes, (in, out), because columns are what it goes through.
    """
    target = weight.T.contiguous()
    value, codes = start.value.T.contiguous(), start.codes.T.contiguous()
    params = list(split(start.params))
    pull = hessian @ (target - value) + ridge * (target - value)  # minus half the gradient
    window = max(WINDOW, block.size)
    for first in range(0, len(target), window):
        last = min(first + window, len(target))
        local = hessian[first:last, first:last].clone()
        local.diagonal().add_(ridge)
        before = value[first:last].clone()
        for at in range(first, last, block.size):
            inside = slice(at - first, at - first + block.size)
            place = slice(at, at + block.size)
            run = Run(block, codes[place], value[place], params[at // block.size])
            run.rescale(pull[first:last], local, inside)
            run.recode(pull[first:last], local, inside)
            params[at // block.size] = run.params
        moved = value[first:last] - before
        pull[last:] -= hessian[last:, first:last] @ moved
    return Rounded(codes.T.contiguous(), join(params), value.T.contiguous())


def split(params: Params) -> list[Params]:
    """Params of a row -> params of each of its blocks; `join` puts them together again."""
    blocks = next(iter(params.values())).shape[1]
    return [{key: part[:, at : at + 1] for key, part in params.items()} for at in range(blocks)]


class Run:
    """One block of all rows: codes and value (size, out) are views that change in place."""

    def __init__(
        self, block: Block, codes: torch.Tensor, value: torch.Tensor, params: Params
    ) -> None:
        self.block, self.codes, self.value, self.params = block, codes, value, params

    def rescale(self, pull: torch.Tensor, local: torch.Tensor, inside: slice) -> None:
        """The best `linear` params for the codes, where storing them still lowers the error.

        pull (window, out) is kept up to date; local is its part of the Hessian.
        """
        keys, own = self.block.linear, local[inside, inside]
        basis = [b.T.to(local.dtype) for b in self.block.basis(self.codes.T, self.params)]
        rise = torch.stack([(b * pull[inside]).sum(0) for b in basis], -1)  # (out, keys)
        reach = [own @ b for b in basis]
        form = torch.stack([torch.stack([(b * r).sum(0) for b in basis], -1) for r in reach], -1)
        old = torch.cat([self.params[key] for key in keys], -1)  # (out, keys) float32
        new = self.block.storable(old + solve(form, rise))
        step = (new - old).to(form.dtype)
        change = (step * (torch.einsum("okl,ol->ok", form, step) - 2 * rise)).sum(-1)
        new = torch.where((change < 0)[:, None], new, old)
        self.params = self.params | {k: new[:, i : i + 1] for i, k in enumerate(keys)}
        scale, offset = self.block.grid(self.params)
        self.move(self.block.value(self.codes.T, scale, offset).T, pull, local, inside)

    def recode(self, pull: torch.Tensor, local: torch.Tensor, inside: slice) -> None:
        """The best code of each weight beside all others, column by column."""
        scale, offset = (x.T.contiguous() for x in self.block.grid(self.params))
        if self.block.native and runs_native(self.block, pull, local, self.value):
            fixed = (a.numpy() for a in (scale, offset, local.T.contiguous()))
            state = (a.numpy() for a in (self.codes, self.value, pull))
            self.block.native.rounder.recode(*fixed, inside.start, *state)
            return
        for at in range(len(self.value)):
            column = inside.start + at
            best = self.value[at] + pull[column] / local[column, column]
            self.codes[at] = self.block.code(best, scale[at], offset[at])
            fresh = self.block.value(self.codes[at], scale[at], offset[at])
            step = fresh - self.value[at]
            self.value[at] = fresh
            pull -= local[:, column, None] * step

    def move(
        self, fresh: torch.Tensor, pull: torch.Tensor, local: torch.Tensor, inside: slice
    ) -> None:
        """Replace the value of the whole block."""
        pull -= local[:, inside] @ (fresh - self.value)
        self.value.copy_(fresh)


def solve(form: torch.Tensor, rise: torch.Tensor) -> torch.Tensor:
    """Solutions (out, keys) of form (out, keys, keys) x = rise, for one or two keys; 0 if flat."""
    if rise.shape[1] == 1:
        energy = form[:, 0]
        return torch.where(energy > 0, rise / torch.where(energy > 0, energy, 1.0), 0.0)
    (a, b), d = (form[:, 0, 0], form[:, 0, 1]), form[:, 1, 1]
    spread = a * d - b * b
    flat = spread <= FLAT * a * d
    x = torch.stack([d * rise[:, 0] - b * rise[:, 1], a * rise[:, 1] - b * rise[:, 0]], -1)
    return torch.where(flat[:, None], 0.0, x / torch.where(flat, 1.0, spread)[:, None])
