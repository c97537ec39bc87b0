"""What a rewrite is: it changes the weights of a layer, but not what the layer computes.

Files stay what stock engines load: nothing is added, numbers only move from one tensor to another.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from quantize.calibration.streamed import StreamingOps
from runtime.archs import InputGroup, LayerSpec
from runtime.errors import UnsupportedError
from runtime.forward import Layer, Positions, decoder_layer
from runtime.quant_types import QuantType

REWRITES: dict[str, "Rewrite"] = {}
"""Every rewrite by its name; each file of this folder registers its own."""

Weights = dict[str, torch.Tensor]
"""Tensors of one layer by their name within it ("attn_q.weight")."""

PROBE = 8
"""Tokens that a rewritten layer is tried on."""
TOLERANCE = 1e-3
"""Largest relative change of their hidden states: rounding of float32 stays far below it."""


@dataclass(frozen=True)
class Rewrite:
    """One way to rewrite a layer before it is rounded."""

    name: str
    summary: str
    apply: Callable[
        [Weights, tuple[InputGroup, ...], Mapping[str, QuantType], dict[str, torch.Tensor], float],
        None,
    ]
    """weights, input groups, types, hessians, damp: changes weights and hessians in their dicts."""

    def __post_init__(self) -> None:
        REWRITES[self.name] = self


def fold(
    weights: Weights, group: InputGroup, scale: torch.Tensor, hessians: dict[str, torch.Tensor]
) -> None:
    """Multiply the columns of a group's linears by scale (in,), and divide the op before by it."""
    for linear in group.linears:
        weights[f"{linear}.weight"] = weights[f"{linear}.weight"] * scale
    before = weights[f"{group.fold}.weight"]
    weights[f"{group.fold}.weight"] = before / scale.reshape(-1, *[1] * (before.ndim - 1))
    if f"{group.fold}.bias" in weights:
        weights[f"{group.fold}.bias"] = weights[f"{group.fold}.bias"] / scale
    hessians[group.name] = hessians[group.name] / scale / scale[:, None]


def check_preserved(spec: LayerSpec, before: Weights, after: Weights, where: str) -> None:
    """Run a few random tokens through a layer as it was and as it is.

    Raises EdgequantError naming the layer when the results differ beyond rounding.
    """
    device = next(iter(before.values())).device
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1, PROBE, spec.groups[0].width, generator=draw).to(device)
    ops = StreamingOps(str(device))
    one, other = (
        decoder_layer(ops, Layer(spec, weights), x, Positions(0, PROBE)) - x
        for weights in (before, after)
    )
    change = float((one - other).norm() / one.norm().clamp(min=1e-30))
    if not change <= TOLERANCE:  # also when it is NaN
        raise UnsupportedError(
            f"{where}: a rewrite changed what the layer computes, by {change:.1e} of its size; "
            "use --rewrite none, and check the weights of this layer."
        )
