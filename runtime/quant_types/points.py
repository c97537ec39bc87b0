"""What IQ4_NL and IQ4_XS share: codes of 4 bits that name points of one uneven table."""

from functools import cached_property
from typing import ClassVar

import numpy as np
from array_api_compat import array_namespace, device

from runtime.quant_types.base import Array, QuantType
from runtime.quant_types.fitting import guarded
from runtime.quant_types.native_fit import NativeSearch

POINTS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""The table: denser around 0, where most weights lie."""


def _nearest() -> np.ndarray:
    """Code nearest to every half step from POINTS[0] on, (481,) int32.

    Every midpoint of two points is a whole number or a half, so none falls inside a half step.
    """
    steps = np.arange(2 * POINTS[0], 2 * POINTS[-1] + 1) / 2 + 0.25
    return np.abs(steps[:, None] - np.array(POINTS)).argmin(axis=1).astype(np.int32)


class Pointed(QuantType):
    """weight = scale * POINTS[code]; stands before the class that fits the scales."""

    low, high = 0, 15
    ends: ClassVar[tuple[float, ...]] = (1.025, -0.925, 1.15, 0.95, -1.175, 0.85, 1.5, -1.0)
    nearest: ClassVar[np.ndarray] = _nearest()
    points: ClassVar[np.ndarray] = np.array(POINTS, np.float32)
    snapped: ClassVar[np.ndarray] = points[nearest]

    @property
    def lowest_point(self) -> float:
        return POINTS[0]

    @cached_property
    def native(self) -> NativeSearch | None:
        found = super().native
        if found is not None:
            found.rounder.set_points(self.points, self.nearest)
        return found

    def _snap(self, x: Array) -> Array:
        return _look_up(self.snapped, self._half_steps(x), x)

    def _half_steps(self, x: Array) -> Array:
        """Index into `nearest` of each x, in units of the table."""
        xp = array_namespace(x)
        steps = xp.clip(xp.floor(x + x), 2 * POINTS[0], 2 * POINTS[-1])
        return xp.astype(steps - 2 * POINTS[0], xp.int32)

    def code(self, w: Array, scale: Array, offset: Array) -> Array:
        xp = array_namespace(w)
        w = xp.where(scale == 0, xp.zeros_like(w), w)
        return _look_up(self.nearest, self._half_steps(w / guarded(scale)), w)

    def value(self, codes: Array, scale: Array, offset: Array) -> Array:
        return scale * _look_up(self.points, codes, scale)


def _look_up(table: np.ndarray, index: Array, like: Array) -> Array:
    """Entries of a numpy table, in the namespace and on the device of `like`."""
    xp = array_namespace(like)
    entries = xp.asarray(table, device=device(like))
    # take of a flat int32 index: indexing with brackets is four times slower in torch
    return xp.reshape(xp.take(entries, xp.reshape(index, (-1,)), axis=0), index.shape)
