"""What the 256-weight GGUF layouts share: small integer scales of sub-blocks on a float16 scale."""

from functools import cached_property
from typing import ClassVar

from array_api_compat import array_namespace

from runtime.quant_types.base import Array, Params, QuantType
from runtime.quant_types.fitting import Tile, affine_starts, fit_tiles, rounded
from runtime.quant_types.native_fit import NativeSearch, native_search
from runtime.quant_types.super_fitting import fit_lines, fit_scales


class SymmetricSuper(QuantType):
    """weight = d * scale * code, codes around 0 (or points of a table: see Pointed).

    Params: d (rows, blocks) float32 holding float16 values; scales (rows, blocks, sub-blocks)
    float32 holding integers.
    """

    size = 256
    linear = ("d",)
    span: ClassVar[tuple[int, int]]
    """Least and greatest scale."""
    ends: ClassVar[tuple[float, ...]]
    """Parts of the lowest point on which `fit` tries to put a sub-block's greatest weight."""
    rounds: ClassVar[int] = 2
    """How often `fit` chooses d and the integers (see super_fitting)."""

    @property
    def lowest_point(self) -> float:
        """Value of the lowest code at scale 1."""
        return self.low

    @property
    def tries(self) -> tuple[float, ...]:
        """The places of a sub-block's weight of greatest size, on the grid of scale 1."""
        return tuple(self.lowest_point * end for end in self.ends)

    @cached_property
    def native(self) -> NativeSearch | None:
        facts = {"first": self.tries, "span": self.span, "rounds": self.rounds}
        return native_search(self, "symmetric super", ("d",), ("scales",), **facts)

    def search(self, w: Array, importance: Array | None = None) -> Params:
        return fit_tiles(self._fit_tile, w, importance, (self.size // self.group, self.group))

    def _fit_tile(self, tile: Tile) -> Params:
        return fit_scales(tile, self._snap, self.tries, self.span, self.rounds)

    def _snap(self, x: Array) -> Array:
        """The code nearest to x, float32."""
        return rounded(array_namespace(x), x, self.low, self.high)

    def grid(self, params: Params) -> tuple[Array, Array]:
        xp = array_namespace(params["d"])
        scale = spread(xp, params["d"][..., None] * params["scales"], self.group)
        # adding -0.0 keeps the sign of a zero, as readers that only multiply have it
        return scale, xp.full_like(scale, -0.0)


class AffineSuper(QuantType):
    """weight = d * scale * code - dmin * min, codes from 0.

    Params: d and dmin (rows, blocks), scales and mins (rows, blocks, sub-blocks), all stored like
    those of SymmetricSuper.
    """

    size = 256
    linear = ("d", "dmin")
    low = 0
    most: ClassVar[int]
    """Greatest scale and min; the least is 0."""
    ranges: ClassVar[tuple[tuple[float, float], ...]]
    """Parts of a sub-block's range that `fit` tries to leave out below and above."""
    parts: ClassVar[tuple[float, ...]] = (1.0,)
    """Shares of the largest sub-block's scale that `fit` tries to store as `most`."""
    rounds: ClassVar[int] = 2
    """How often `fit` chooses d, dmin and the integers (see super_fitting)."""

    @cached_property
    def native(self) -> NativeSearch | None:
        facts = affine_starts(self.ranges, self.high) | {
            "span": (0, self.most),
            "rounds": self.rounds,
            "parts": [part / self.most for part in self.parts],
        }
        return native_search(self, "affine super", ("d", "dmin"), ("scales", "mins"), **facts)

    def search(self, w: Array, importance: Array | None = None) -> Params:
        return fit_tiles(self._fit_tile, w, importance, (self.size // self.group, self.group))

    def _fit_tile(self, tile: Tile) -> Params:
        return fit_lines(tile, self.high, self.most, self.ranges, self.parts, self.rounds)

    def grid(self, params: Params) -> tuple[Array, Array]:
        xp = array_namespace(params["d"])
        scale = params["d"][..., None] * params["scales"]
        minimum = params["dmin"][..., None] * params["mins"]
        return spread(xp, scale, self.group), spread(xp, -minimum, self.group)


def spread(xp: Array, x: Array, group: int) -> Array:
    """One value a sub-block, (rows, blocks, sub-blocks), -> one a weight, (rows, cols)."""
    return xp.repeat(xp.reshape(x, (x.shape[0], -1)), group, axis=1)
