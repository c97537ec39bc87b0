"""Weights that are copied: a source whose type is the target's is never rounded a second time.

A second rounding into the same type is not harmless: of equal blocks llama.cpp keeps half in Q3_K,
and any search may find other scales for values that lie on a grid already. So rows whose type in
the source is the one that they get go into the artifact as they are, whatever the method, and
nothing that moves numbers between tensors (scales, rewrites, tuning) touches them.
"""

from collections.abc import Mapping

import numpy as np

from quantize.checkpoint import check_finite
from quantize.plan import Assignment
from runtime.archs import LayerSpec
from runtime.quant_types import QuantType
from runtime.stored import StoredTensors
from runtime.tensor import Tensor

CHUNK = 1 << 22
"""Weights that are decoded at a time to look for NaN and infinity."""


def stays(source: QuantType, target: QuantType) -> bool:
    """Whether weights of one type go into another as they are.

    Floats need no such rule: F16 of F16 is exact, and takes what a method makes of other weights.
    """
    return source.name == target.name and not target.is_float


def copied_rows(tensor: Tensor, target: QuantType) -> np.ndarray | None:
    """The rows of a tensor that stays as it is, uint8 (rows, row_bytes); None where it is rounded.

    Raises CorruptFileError where they decode to NaN or infinity.
    """
    if not stays(tensor.qtype, target) or tensor.scales is not None:
        return None
    step = max(1, CHUNK // tensor.cols)
    for start in range(0, tensor.rows, step):
        check_finite(tensor, tensor.decode(start, start + step))
    return tensor.data


def copied_names(tensors: StoredTensors, types: Mapping[str, QuantType]) -> frozenset[str]:
    """The weights of a target that are copied (`Assignment.copied`); `types` are its types."""
    return frozenset(name for name, qtype in types.items() if stays(tensors.qtype(name), qtype))


def copied_linears(
    tensors: StoredTensors, member: Assignment, spec: LayerSpec, index: int
) -> dict[str, Tensor]:
    """The linears of layer `index` that are copied for a target. Raises as `copied_rows` does."""
    found: dict[str, Tensor] = {}
    for linear in spec.linears:
        name = f"blk.{index}.{linear}.weight"
        if name in member.copied:
            found[linear] = tensors[name]
            copied_rows(found[linear], member.types[name])
    return found
