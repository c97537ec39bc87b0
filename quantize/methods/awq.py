"""AWQ (Lin et al. 2023): give channels with large inputs a larger share of the grid, by scaling."""

import torch

from quantize.methods import gptq
from quantize.methods.base import HessianFactor, Method, output_error
from quantize.methods.fixed_order import mean_size
from quantize.methods.rtn import rtn
from runtime.quant_types import QuantType

STEPS = 20
"""Exponents tried between 0 (no scaling) and 1 (inputs made equally large)."""
LARGEST = 64.0
"""Scales stay in 1/64..64: in float16 nothing that is folded can underflow to zero."""


def candidate(hessian: torch.Tensor, exponent: float) -> torch.Tensor:
    """Scales (in,): root mean square input to the power `exponent`, centred on 1 and bounded."""
    size = hessian.diagonal().sqrt()
    alive = size > 0
    scale = torch.where(alive, size, 1.0) ** exponent
    centre = mean_size(scale[alive])
    return torch.where(alive, scale / centre, 1.0).clamp(1 / LARGEST, LARGEST)


def scales(
    weights: list[torch.Tensor], blocks: list[QuantType], hessian: torch.Tensor, steps: int = STEPS
) -> torch.Tensor:
    """The scale of each input channel, (in,), with the least output error of all linears together.

    A weight W (out, in) will be stored as round(W * scale), its input divided by scale, so the
    error of the outputs is that of round(W * scale) / scale under the Hessian (in, in). All ones
    when nothing is better.
    """
    best, least = torch.ones_like(hessian[0]), float("inf")
    for step in range(steps):
        scale = candidate(hessian, step / steps)
        importance = HessianFactor(hessian.diagonal() / scale**2)
        loss = 0.0
        for weight, qtype in zip(weights, blocks, strict=True):
            rounded = rtn(weight * scale, qtype, importance).value / scale
            loss += output_error(weight - rounded, hessian)
        if loss < least:
            best, least = scale, loss
    return best


def importance(hessian: torch.Tensor, damp: float) -> HessianFactor:
    """Only the mean squared inputs (in,) of the Hessian: rounding itself has no feedback."""
    return HessianFactor(hessian.diagonal().clone())


Method(
    "awq",
    "scales searched on the output error, folded into the op before, then rounding",
    calibrated=True,
    round=rtn,
    factor=importance,
    scales=scales,
)
Method(
    "awq-gptq",
    "AWQ's scales, then GPTQ's error feedback",
    calibrated=True,
    round=gptq.gptq,
    factor=gptq.factor,
    scales=scales,
)
