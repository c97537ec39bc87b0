"""What gradients take (fisher.py): memory and operations."""

import math

from quantize.calibration.fisher import LOGITS
from quantize.calibration.hessian_cost import hessian_bytes, hessian_flops
from quantize.calibration.layer_cost import (
    BACKWARD,
    activation_bytes,
    at_once,
    backward_bytes,
    forward_flops,
    one_by_one_bytes,
    streamed_bytes,
)
from quantize.calibration.stream import TOKENS_BACK
from quantize.run.cost import FLOAT, Cost, in_memory
from runtime.archs import Arch

SAMPLED = 5
"""Copies of the probabilities of a chunk while tokens are drawn: float32, and two of float64."""


def states_bytes(arch: Arch, rows: int, length: int) -> int:
    """Bytes of the states before every layer and after the last."""
    return FLOAT * (arch.layers + 1) * rows * length * arch.hidden


def fisher_cost(
    arch: Arch, rows: int, length: int, visited: bool, max_ram: float, linears: bool = False
) -> Cost:
    """Of `fisher` for windows (rows, length); states that lie in memory are in it.

    What most memory is needed for is the head: in float32, beside its source or some logits.
    `linears`: whether those of a layer are streamed.
    """
    cells, tokens = arch.vocab * arch.hidden, rows * length
    if arch.score_head:
        cells = sum(map(math.prod, arch.score_head.shapes.values()))
    logits = min(LOGITS, tokens * arch.outputs)
    head = FLOAT * cells + max(2 * cells, SAMPLED * FLOAT * logits)
    most, what, flops = head, "the head", 4.0 * tokens * cells
    for index in range(arch.layers):
        spec = arch.layer(index)
        layer = one_by_one_bytes(spec) if linears else streamed_bytes(spec)
        there = activation_bytes(spec, at_once(rows, length))
        back = backward_bytes(spec, at_once(rows, length, TOKENS_BACK))
        if visited:  # a Hessian is factored to predict losses (sensitivity.py)
            widest = max(group.width for group in spec.groups)
            back = max(back, FLOAT * widest**2) + hessian_bytes(spec)
            flops += hessian_flops(spec, tokens)
        if layer + max(there, back) > most:
            most, what = layer + max(there, back), f"blk.{index}"
        flops += (1 + BACKWARD) * forward_flops(spec, tokens)
    states = in_memory(states_bytes(arch, rows, length), max_ram)
    return Cost(memory=states + most, what=f"gradients through {what}", flops=flops)
