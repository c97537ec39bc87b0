"""Scales of input channels, moved into the norm before: outlier channels no longer fill a block.

A channel with large inputs and small weights shares its block's scale with larger weights and is
rounded to nothing. Multiplying its column and dividing the norm evens the two out. The scale is
(size of the inputs / size of the weights)^p, as in AWQ (Lin et al. 2023) and SmoothQuant (Xiao et
al. 2023); p is the one with the least loss of GPTQ in the types that the linears will have.
"""

from collections.abc import Mapping

import torch

from quantize.calibration.streamed import whole
from quantize.methods import HessianFactor, SingularHessian
from quantize.methods.fixed_order import mean_size
from quantize.methods.gptq import factor
from quantize.methods.rtn import rtn
from quantize.rewrites.base import Rewrite, Weights, fold
from runtime.archs import InputGroup
from runtime.quant_types import QuantType

POWERS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
"""0 leaves the input as it is; at 0.5 inputs and weights become equally uneven."""
ROWS = 256
"""Rows of a linear that are rounded to compare."""
LARGEST = 1024.0
"""Scales stay in 1/1024..1024, so that nothing comes near the ends of float16."""


def apply(
    weights: Weights,
    groups: tuple[InputGroup, ...],
    types: Mapping[str, QuantType],
    hessians: dict[str, torch.Tensor],
    damp: float,
) -> None:
    """Fold the best scales of every input that a norm makes."""
    for group in groups:
        if group.fold is None or weights[f"{group.fold}.weight"].ndim != 1:
            continue
        linears = [whole(weights[f"{linear}.weight"]) for linear in group.linears]
        blocks = [types[linear] for linear in group.linears]
        try:
            found = factor(hessians[group.name], damp)
        except SingularHessian:
            continue  # rounding says so
        scale = best_scale(linears, blocks, hessians[group.name], found)
        if scale is not None:
            fold(weights, group, scale, hessians)


def best_scale(
    linears: list[torch.Tensor],
    blocks: list[QuantType],
    hessian: torch.Tensor,
    found: HessianFactor,
) -> torch.Tensor | None:
    """Scale (in,) of least loss for linears (out, in); None when none is better than all ones.

    With H scaled on both sides, diag(U) of its factor is scaled as well: no candidate needs a
    factoring of its own.
    """
    sampled = [linear[:: max(1, len(linear) // ROWS)] for linear in linears]
    best, least = None, float("inf")
    for power in POWERS:
        scale = candidate(linears, hessian, power)
        importance = HessianFactor(found.importance / scale.square())
        loss = 0.0
        for rows, linear, qtype in zip(sampled, linears, blocks, strict=True):
            scaled = rows * scale
            error = rtn(scaled, qtype, importance).value - scaled
            of_rows = (error.square() * importance.importance).sum(1)
            loss += float(of_rows.mean()) * len(linear)
        if loss < least:
            best, least = (scale if power else None), loss
    return best


def candidate(linears: list[torch.Tensor], hessian: torch.Tensor, power: float) -> torch.Tensor:
    """(root mean square input / root mean square weight)^power of each channel, centred on 1."""
    inputs = hessian.diagonal().sqrt()
    columns = torch.stack([linear.square().sum(0) for linear in linears]).sum(0).sqrt()
    alive = (inputs > 0) & (columns > 0)
    ratio = torch.where(alive, inputs / torch.where(alive, columns, 1.0), 1.0) ** power
    centre = mean_size(ratio[alive])
    return torch.where(alive, ratio / centre, 1.0).clamp(1 / LARGEST, LARGEST)


Rewrite("scales", "uneven input channels evened out, folded into the norm before", apply)
