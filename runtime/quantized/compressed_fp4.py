"""Floats of 4 bits (E2M1) of compressed-tensors.

    X.weight_packed        uint8 (out, in / 2): low nibble of byte j: column 2 j, high: 2 j + 1
    X.weight_scale         nvfp4: F8_E4M3 (out, in / 16)
                           mxfp4: uint8 (out, in / 32), an exponent e of 2^(e - 127)
    X.weight_global_scale  float32 (1,), nvfp4 only: what scales were multiplied by

nvfp4: weight = value * (scale / global scale); mxfp4: weight = value * scale. Other tools store the
inverse of the global scale, under other names.
"""

from functools import partial

import numpy as np

from runtime.errors import UnsupportedError
from runtime.quant_types.fp4 import POINTS
from runtime.quantized.base import Arrays, check, check_matrix, take
from runtime.quantized.compressed_groups import Weights
from runtime.quantized.decoded import BYTES, decoded_array, numbers
from runtime.stored import ComputedArray, StoredArray

VALUES = POINTS.astype(np.float32) / 2
NVFP4, MXFP4 = 16, 32
"""Columns that share a scale."""
NO_EXPONENT = 255
"""An exponent that stands for no number."""


def is_fp4(weights: Weights) -> bool:
    """Whether a module's weights are such floats."""
    return weights.type == "float" and weights.num_bits == 4


def fp4(module: str, left: Arrays, weights: Weights) -> ComputedArray:
    """A weight of such floats. Raises EdgequantError for what is not read."""
    group = weights.group_size
    if group not in (NVFP4, MXFP4) or not weights.symmetric:
        raise UnsupportedError(
            f"{module}.weight_packed of floats of 4 bits in groups of {group} is not read, only of "
            f"{NVFP4} (nvfp4) and {MXFP4} (mxfp4); give the full-precision checkpoint."
        )
    more = ("weight_global_scale",) if group == NVFP4 else ()
    parts = take(left, module, ("weight_packed", "weight_scale", *more))
    rows, half = check_matrix(f"{module}.weight_packed", parts["weight_packed"], ("U8",))
    kind = "F8_E4M3" if group == NVFP4 else "U8"
    groups = -(-2 * half // group)
    check(f"{module}.weight_scale", parts["weight_scale"], (rows, groups), (kind,))
    for name in more:
        check(f"{module}.{name}", parts[name], (1,), ("F32",))
    values = partial(_rows, group, parts["weight_packed"], parts["weight_scale"])
    values = partial(values, parts.get("weight_global_scale"))
    return decoded_array((rows, 2 * half), tuple(parts.values()), values)


def _rows(
    group: int,
    packed: StoredArray,
    scale: StoredArray,
    total: StoredArray | None,
    start: int,
    stop: int,
) -> np.ndarray:
    """Rows of the weight, float32."""
    pairs = packed.read_rows(start, stop)
    codes = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(len(pairs), -1)
    stored = scale.read_rows(start, stop)
    if total is None:
        scales = np.ldexp(np.float32(1), stored.astype(np.int32) - 127)
        scales = np.where(stored == NO_EXPONENT, np.float32(np.nan), scales)
    else:
        scales = BYTES["F8_E4M3"][stored] / numbers(total)
    return np.asarray(VALUES[codes] * np.repeat(scales, group, axis=1)[:, : codes.shape[1]])
