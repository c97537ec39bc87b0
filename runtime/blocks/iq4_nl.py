"""IQ4_NL of GGUF: 32 codes of 4 bits that name points of a table, on one scale."""

from typing import ClassVar

import numpy as np
from array_api_compat import array_namespace, device

from runtime.blocks.base import Array, Params
from runtime.blocks.bits import (
    join_records,
    pack_fields,
    pack_float16,
    records,
    unpack_fields,
    unpack_float16,
)
from runtime.blocks.fitting import guarded
from runtime.blocks.plain import Scaled

POINTS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""The table: denser around 0, where most weights lie."""


def _nearest() -> np.ndarray:
    """Code nearest to every half step from POINTS[0] on, (481,).

    Every midpoint of two points is a whole number or a half, so none falls inside a half step.
    """
    steps = np.arange(2 * POINTS[0], 2 * POINTS[-1] + 1) / 2 + 0.25
    return np.abs(steps[:, None] - np.array(POINTS)).argmin(axis=1)


class IQ4_NL(Scaled):
    """weight = d * POINTS[code]

    bytes 0..1    d  float16
    bytes 2..17   q  low nibbles: weights 0..15, high nibbles: weights 16..31
    """

    name = "IQ4_NL"
    bytes = 18
    low, high = 0, 15
    ggml_type = 20
    ends = (1.025, -0.925, 1.15, 0.95, -1.175, 0.85, 1.5, -1.0)
    nearest: ClassVar[np.ndarray] = _nearest()
    points: ClassVar[np.ndarray] = np.array(POINTS, np.float32)

    @property
    def lowest_point(self) -> float:
        return POINTS[0]

    def _snap(self, x: Array) -> Array:
        return _look_up(self.points[self.nearest], self._half_steps(x), x)

    def _half_steps(self, x: Array) -> Array:
        """Index into `nearest` of each x, in units of the table."""
        xp = array_namespace(x)
        steps = xp.clip(xp.floor(x + x), 2 * POINTS[0], 2 * POINTS[-1])
        return xp.astype(steps - 2 * POINTS[0], xp.int32)

    def code(self, w: Array, scale: Array, offset: Array) -> Array:
        xp = array_namespace(w)
        w = xp.where(scale == 0, xp.zeros_like(w), w)
        return _look_up(self.nearest.astype(np.int32), self._half_steps(w / guarded(scale)), w)

    def value(self, codes: Array, scale: Array, offset: Array) -> Array:
        return scale * _look_up(self.points, codes, scale)

    def pack(self, codes: Array, params: Params) -> np.ndarray:
        stored = np.asarray(codes).reshape(len(codes), -1, self.size)
        return join_records(pack_float16(params["d"]), pack_fields(stored, bits=4, run=16))

    def unpack(self, data: np.ndarray) -> tuple[np.ndarray, Params]:
        record = records(data, self.bytes)
        codes = unpack_fields(record[..., 2:], bits=4, run=16).astype(np.int32)
        return codes.reshape(len(data), -1), {"d": unpack_float16(record[..., :2])}


def _look_up(table: np.ndarray, index: Array, like: Array) -> Array:
    """Entries of a numpy table, in the namespace and on the device of `like`."""
    xp = array_namespace(like)
    entries = xp.asarray(table, device=device(like))
    # take of a flat int32 index: indexing with brackets is four times slower in torch
    return xp.reshape(xp.take(entries, xp.reshape(index, (-1,)), axis=0), index.shape)
