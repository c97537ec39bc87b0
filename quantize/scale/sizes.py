"""How many bytes travel, and how many a layer is worth."""

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch

from quantize.calibration.compensation_cost import summed_bytes
from quantize.calibration.hessian_cost import plain_hessian_bytes
from quantize.calibration.layer_cost import layer_bytes
from quantize.calibration.sums import half_size
from quantize.run.cost import FLOAT
from runtime.archs import Arch, LayerSpec

LAYERS = 2
"""As many layers' worth may lie in the object store."""


def nbytes(value: Any) -> int:
    """Bytes of the arrays within a value."""
    if isinstance(value, np.ndarray | torch.Tensor):
        return value.nbytes
    if isinstance(value, dict):
        return sum(map(nbytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(nbytes, value))
    if is_dataclass(value) and not isinstance(value, type):
        return sum(nbytes(getattr(value, field.name, None)) for field in fields(value))
    return 0


def batch_bytes(spec: LayerSpec, compensates: bool, held: int = 0) -> int:
    """Bytes of the sums of one batch, `held` tokens of which are held back: halves of Hessians, and
    what compensation sums."""
    halves = FLOAT * sum(half_size(group.width) for group in spec.groups if group.expert is None)
    return halves + (summed_bytes(spec, held) if compensates else 0)


def worth(spec: LayerSpec, tokens: int, compensates: bool) -> int:
    """Bytes of a layer in float32, its sums, and the states of so many tokens before and after."""
    sums = plain_hessian_bytes(spec) + (summed_bytes(spec, 0) if compensates else 0)
    states = FLOAT * tokens * spec.groups[0].width * (4 if compensates else 2)
    return layer_bytes(spec) + sums + states


def store_room(arch: Arch, tokens: int, compensates: bool) -> int:
    """Bytes that may lie in the object store at a time, over all nodes."""
    specs = map(arch.layer, range(arch.layers))
    return LAYERS * max(worth(spec, tokens, compensates) for spec in specs)
