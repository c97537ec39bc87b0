"""Round to nearest: fit the grid, round every weight by itself."""

import torch

from quantize.methods.base import HessianFactor, Method, Rounded
from runtime.quant_types import QuantType


def rtn(weight: torch.Tensor, qtype: QuantType, factor: HessianFactor | None = None) -> Rounded:
    """Round each weight (out, in) to the nearest point of its fitted grid.

    With a factor the fit weighs squared errors by the columns' importance, without one equally.
    """
    params = qtype.fit(weight, factor.importance if factor else None)
    scale, offset = qtype.grid(params)
    codes = qtype.code(weight, scale, offset)
    return Rounded(codes, params, qtype.value(codes, scale, offset))


Method("rtn", "round to nearest, no calibration", calibrated=False, round=rtn)
