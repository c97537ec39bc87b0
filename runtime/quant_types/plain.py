"""What the 32-weight GGUF layouts share: one float16 scale, alone or with one float16 minimum."""

from functools import cached_property
from typing import ClassVar

import numpy as np
from array_api_compat import array_namespace

from runtime.quant_types.base import Array, Params, QuantType, float16
from runtime.quant_types.fitting import (
    Tile,
    affine_starts,
    best_line,
    fit_tiles,
    line_sums,
    new_tile,
    rounded,
    search_line,
    search_scale,
)
from runtime.quant_types.native_fit import NativeSearch, native_search


class Symmetric(QuantType):
    """weight = d * code, codes around 0.

    Params: d (rows, blocks) float32 holding float16 values.
    """

    size = group = 32
    linear = ("d",)
    ends: ClassVar[tuple[float, ...]]
    """Parts of the lowest point on which `fit` tries to put the weight of greatest size."""

    @property
    def lowest_point(self) -> float:
        """Value of the lowest code at scale 1."""
        return self.low

    @property
    def tries(self) -> tuple[float, ...]:
        """The places of the weight of greatest size, on the grid of scale 1."""
        return tuple(self.lowest_point * end for end in self.ends)

    @cached_property
    def native(self) -> NativeSearch | None:
        return native_search(self, "symmetric", ("d",), first=self.tries)

    def search(self, w: Array, importance: Array | None = None) -> Params:
        return fit_tiles(self._fit_tile, w, importance, (self.size,))

    def _fit_tile(self, tile: Tile) -> Params:
        return {"d": float16(tile.xp, search_scale(tile, self._snap, self.tries))}

    def _snap(self, x: Array) -> Array:
        """The point of the unit grid nearest to x, float32."""
        return rounded(array_namespace(x), x, self.low, self.high)

    def multiples(self, codes: Array, params: Params) -> tuple[Array, Array] | None:
        return (codes, params["d"]) if self.lowest_point == self.low else None

    def of_multiples(self, step: np.ndarray, least: np.ndarray, most: np.ndarray) -> Params | None:
        if self.lowest_point != self.low:
            return None  # codes name points of a table
        turned = most > self.high  # the lowest code has no counterpart above
        return {"d": float16(np, np.where(turned, -step, step))}

    def grid(self, params: Params) -> tuple[Array, Array]:
        xp = array_namespace(params["d"])
        scale = xp.repeat(params["d"], self.size, axis=1)
        # adding -0.0 keeps the sign of a zero, as readers that only multiply have it
        return scale, xp.full_like(scale, -0.0)


class Affine(QuantType):
    """weight = d * code + m, codes from 0. Params: d and m, both stored like Symmetric's d."""

    size = group = 32
    linear = ("d", "m")
    low = 0
    ranges: ClassVar[tuple[tuple[float, float], ...]]
    """Parts of a block's range that `fit` tries to leave out below and above."""

    @cached_property
    def native(self) -> NativeSearch | None:
        return native_search(self, "affine", ("d", "m"), **affine_starts(self.ranges, self.high))

    def search(self, w: Array, importance: Array | None = None) -> Params:
        return fit_tiles(self._fit_tile, w, importance, (self.size,))

    def _fit_tile(self, tile: Tile) -> Params:
        xp = tile.xp
        mean = tile.first / tile.mass  # sums of squares around it keep their digits
        tile = new_tile(xp, tile.x - mean, tile.weight)
        scale, offset = search_line(tile, self.high, self.ranges, below=False)
        sums = line_sums(tile, scale, offset, self.high)
        scale, _ = best_line(tile, sums, scale, offset, below=False)
        d = float16(xp, scale)
        # the minimum that is best beside the scale as stored
        return {"d": d, "m": float16(xp, mean + (tile.first - d * sums.codes) / tile.mass)}

    def of_multiples(self, step: np.ndarray, least: np.ndarray, most: np.ndarray) -> Params | None:
        return {"d": float16(np, step), "m": float16(np, least * float16(np, step))}

    def grid(self, params: Params) -> tuple[Array, Array]:
        xp = array_namespace(params["d"])
        return tuple(xp.repeat(params[key], self.size, axis=1) for key in ("d", "m"))
