"""What MXFP4 and NVFP4 share: codes of 4 bits that are floats of 4 bits (E2M1), doubled."""

import numpy as np

from runtime.quant_types.bits import unpack_fields
from runtime.quant_types.read_only import ReadOnly

POINTS = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int32)
"""Twice the value of each code; bit 3 is the sign."""


class Fp4(ReadOnly):
    """weight = scale / 2 * POINTS[code]."""

    low, high = -12, 12


def points(packed: np.ndarray, run: int) -> np.ndarray:
    """Nibbles (..., n) -> points (..., 2n) int32: low ones first in each `run` bytes."""
    return POINTS[unpack_fields(packed, bits=4, run=run)]
