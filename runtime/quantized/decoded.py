"""Weights of scaled floats of 4 and 8 bits, as float32: no packed type holds the same numbers.

value of a code * scale of its block, one product in float32
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from runtime.quant_types import QUANT_TYPES
from runtime.quantized.integers import CHUNK
from runtime.stored import ComputedArray, StoredArray
from runtime.tensor import Shape


@dataclass(frozen=True)
class DecodedArray(ComputedArray):
    """A weight (out, in) whose float32 values are computed some rows at a time."""

    arrays: tuple[StoredArray, ...]
    rows: Callable[[int, int], np.ndarray]
    """Values of rows start..stop, float32 (rows, in)."""
    chunk: int = CHUNK
    """Values that are computed at a time."""

    @property
    def parts(self) -> tuple[StoredArray, ...]:
        return self.arrays

    def read(self) -> np.ndarray:
        """Its bytes: uint8 (nbytes,), computed now."""
        rows, cols = self.shape
        out: np.ndarray = np.empty((rows, cols), np.float32)
        step = max(1, self.chunk // cols)
        for start in range(0, rows, step):
            stop = min(rows, start + step)
            out[start:stop] = self.rows(start, stop)
        return out.reshape(-1).view(np.uint8)


def decoded_array(
    shape: Shape, arrays: tuple[StoredArray, ...], rows: Callable[[int, int], np.ndarray]
) -> DecodedArray:
    """A weight (out, in) that is computed from these arrays."""
    first = arrays[0]
    return DecodedArray(first.file, "F32", shape, first.start, arrays, rows)


def _small_floats(exponent_bits: int, bias: int, infinite: bool) -> np.ndarray:
    """Value of every byte: a sign, an exponent, and the rest for the mantissa; float32 (256,)."""
    byte = np.arange(256)
    mantissa_bits = 7 - exponent_bits
    exponent = byte >> mantissa_bits & (1 << exponent_bits) - 1
    mantissa = byte & (1 << mantissa_bits) - 1
    whole = np.where(exponent > 0, mantissa + (1 << mantissa_bits), mantissa)
    value = np.ldexp(whole.astype(np.float32), np.maximum(exponent, 1) - bias - mantissa_bits)
    top = (1 << exponent_bits) - 1
    if infinite:  # as in the standard's own formats
        value[exponent == top] = np.where(mantissa[exponent == top] == 0, np.inf, np.nan)
    else:
        value[(byte & 127) == 127] = np.nan
    return np.where(byte >> 7, -value, value).astype(np.float32)


BYTES = {
    "F8_E4M3": _small_floats(4, 7, infinite=False),
    "F8_E5M2": _small_floats(5, 15, infinite=True),
}
"""Value of every byte of a type; as safetensors names them."""


def numbers(array: StoredArray) -> np.ndarray:
    """A float array, also of 8 bits: float32 of its shape."""
    if array.dtype in BYTES:
        return BYTES[array.dtype][array.read()].reshape(array.shape)
    return QUANT_TYPES[array.dtype].decode(array.read().reshape(1, -1)).reshape(array.shape)


def scaled_bytes(weight: StoredArray, scale: StoredArray, block: tuple[int, int]) -> DecodedArray:
    """A weight (out, in) of F8 with a scale for each block of so many rows and columns.

    The last block of a row or column may be cut short.
    """
    rows = partial(_scaled_rows, weight, scale, block)
    return decoded_array(weight.shape, (weight, scale), rows)


def _scaled_rows(
    weight: StoredArray, scale: StoredArray, block: tuple[int, int], start: int, stop: int
) -> np.ndarray:
    """Rows of the weight."""
    outputs, inputs = weight.shape
    across = -(-inputs // block[1])
    scales = numbers(scale).reshape(-1, across)[np.arange(start, stop) // block[0]]
    values = BYTES[weight.dtype][weight.read_rows(start, stop)]
    return np.asarray(values * np.repeat(scales, min(block[1], inputs), axis=1)[:, :inputs])
