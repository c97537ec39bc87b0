"""Types that files are read in and never written: a layout is its `unpack`.

Codes are small integers and every group of `group` weights has one scale: weight = scale * code, as
far as float32 multiplies. There is no search, and no rule or preset may name such a type.
"""

import numpy as np
from array_api_compat import array_namespace

from runtime.quant_types.base import QUANT_TYPES, Array, Params, QuantType
from runtime.quant_types.supers import spread

READ_ONLY: dict[str, QuantType] = {}
"""Every such type by its name; QUANT_TYPES has those that are written."""


class ReadOnly(QuantType):
    """weight = scale * code. Params: scale (rows, blocks, groups of a block) float32."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            READ_ONLY[cls.name] = QUANT_TYPES.pop(cls.name)

    def grid(self, params: Params) -> tuple[Array, Array]:
        xp = array_namespace(params["scale"])
        scale = spread(xp, params["scale"], self.group)
        # adding -0.0 keeps the sign of a zero, as readers that only multiply have it
        return scale, xp.full_like(scale, -0.0)


class Signed(ReadOnly):
    """Codes are points of a codebook, each number of them with a sign of its own (IQ2, IQ3)."""

    size = 256


def signs_of_7(index: np.ndarray) -> np.ndarray:
    """Signs of eight weights as one byte, out of 7 bits: the eighth makes their number even."""
    low = index.astype(np.uint8) & 127
    parity = low ^ low >> 4
    parity ^= parity >> 2
    parity ^= parity >> 1
    return low | (parity & 1) << 7


def signed(points: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Points (rows, blocks, n, weights) with a minus where the bits (rows, blocks, bytes) say so.

    Bit i of the bytes belongs to weight i of the block. int32 (rows, cols).
    """
    flat = points.reshape(len(points), -1).astype(np.int32)
    minus = np.unpackbits(signs, axis=-1, bitorder="little").reshape(flat.shape)
    return np.where(minus, -flat, flat)


def words(packed: np.ndarray, kind: str) -> np.ndarray:
    """uint8 (..., bytes) as numbers of a little-endian type, such as "<u2"."""
    return np.ascontiguousarray(packed).view(kind)
