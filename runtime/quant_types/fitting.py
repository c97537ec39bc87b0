"""Scales of least importance-weighted squared error: what the `fit` of the GGUF layouts shares.

Weights are worked on in tiles of (group, ..., blocks, rows): axis 0 runs over the weights that
share one scale, so that a sum adds whole planes, in the same order on numpy and on torch, and every
result depends only on its own block. The search is the same everywhere: round with a few candidate
scales, replace each by the least squares scale of its codes, keep the best, and repeat from there.

The candidates stand in the layouts' files. They were picked one after the other, each lowering the
mean error of random blocks most (Gaussian and Student t of 4, importance even to spread over four
orders of magnitude); no model was looked at.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from array_api_compat import array_namespace, device

from runtime.quant_types.base import FLOOR, Array, Params, normalize_importance, numpy_of

RANGES_4 = (
    (0.02, 0.02),
    (0, 0.04),
    (0.04, 0),
    (-0.05, 0.02),
    (0, 0),
    (0.12, 0.02),
    (0.02, 0.08),
)
RANGES_5 = (
    (0, 0),
    (-0.02, 0.015),
    (0, 0.015),
    (0.015, 0),
    (0, -0.04),
    (-0.04, -0.04),
    (0.03, 0),
)
"""Parts of the range that `search_line` tries to leave out below and above, for 4 and 5 bits."""

CPU_TILE = (256, 1 << 16)
"""Columns (whole blocks of any layout) and weights of a CPU tile: a step stays in the cache."""
GPU_TILE = (1 << 14, 1 << 24)
"""The same on a GPU, where every step costs a kernel launch."""
LARGEST = 2.0**40
"""Weights are clipped to it while fitting: past every float16 scale, and its square is finite."""
TINY = 2.0**-60
"""Scales below it are taken for 0: far less than float16 holds, and its inverse is finite."""


@dataclass(frozen=True)
class Tile:
    """Weights whose scales are being chosen."""

    xp: Array
    """The array namespace of the others."""
    x: Array
    """(group, ..., blocks, rows) float32 weights."""
    weight: Array
    """(group, ..., blocks, 1) their importance, at most 1 in each block and at least FLOOR."""
    weighted: Array
    """weight * x"""
    mass: Array
    """(..., blocks, 1) sum of weight."""
    first: Array
    """(..., blocks, rows) sum of weight * x."""


def new_tile(xp: Array, x: Array, weight: Array) -> Tile:
    """A tile of x, with what all of its candidates share."""
    weighted = weight * x
    return Tile(xp, x, weight, weighted, total(weight), total(weighted))


@dataclass(frozen=True)
class Sums:
    """Importance-weighted sums over the weights of each group, (..., blocks, rows)."""

    codes: Array
    """of code"""
    energy: Array
    """of code * code"""
    cross: Array
    """of code * x"""


def fit_tiles(
    fit: Callable[[Tile], Params], w: Array, importance: Array | None, shape: tuple[int, ...]
) -> Params:
    """Run `fit` on tiles of w (rows, cols) and put its results together.

    `shape` is that of one block: (weights,) or (sub-blocks, weights). A tile's x has these axes
    reversed, then blocks and rows; what `fit` returns for it, (..., blocks, rows), comes back
    reversed too: (rows, blocks, ...).

    On a CPU torch's tensors are fitted in numpy, where a step costs less and none waits for a pool
    of threads: beside another busy program that wait is ten times the work.
    """
    xp = array_namespace(w)
    w = xp.astype(w, xp.float32, copy=False)
    if not in_numpy(w):
        return _fit_tiles(fit, w, importance, shape, GPU_TILE)
    weight = None if importance is None else numpy_of(importance)
    params = _fit_tiles(fit, numpy_of(w), weight, shape, CPU_TILE)
    return {key: xp.asarray(values) for key, values in params.items()}


def in_numpy(w: Array) -> bool:
    """Whether weights are fitted in numpy: those on a CPU."""
    return str(device(w)) == "cpu"


def _fit_tiles(
    fit: Callable[[Tile], Params],
    w: Array,
    importance: Array | None,
    shape: tuple[int, ...],
    tile: tuple[int, int],
) -> Params:
    """`fit_tiles` in the namespace of w, with tiles of (columns, weights)."""
    xp = array_namespace(w)
    rows, cols = w.shape
    widest, room = tile
    width = min(cols, widest)
    height = max(1, room // width)
    weight = block_weights(xp, w, importance, shape)
    size = prod(shape)
    stripes = []
    for row in range(0, rows, height):
        parts = []
        for col in range(0, cols, width):
            x = _planes(xp, w[row : row + height, col : col + width], shape)
            here = weight[..., col // size : (col + width) // size, :]
            parts.append(fit(new_tile(xp, x, here)))
        stripes.append({key: xp.concat([p[key] for p in parts], axis=-2) for key in parts[0]})
    out = {key: xp.concat([s[key] for s in stripes], axis=-1) for key in stripes[0]}
    return {key: xp.permute_dims(a, tuple(reversed(range(a.ndim)))) for key, a in out.items()}


def _planes(xp: Array, w: Array, shape: tuple[int, ...]) -> Array:
    """w (rows, cols) -> float32 (reversed shape, blocks, rows), contiguous, clipped to LARGEST."""
    blocks = xp.reshape(w, (w.shape[0], -1, *shape))
    turned = xp.permute_dims(blocks, tuple(reversed(range(blocks.ndim))))
    flat = xp.reshape(turned, (-1,))  # the copy: rows become the innermost, contiguous axis
    return xp.clip(xp.astype(xp.reshape(flat, turned.shape), xp.float32), -LARGEST, LARGEST)


def block_weights(xp: Array, w: Array, importance: Array | None, shape: tuple[int, ...]) -> Array:
    """The `normalize_importance` of importance (cols,) as planes, (reversed shape, blocks, 1)."""
    if importance is None:
        return _planes(xp, xp.ones_like(w[:1]), shape)
    flat = normalize_importance(xp, importance, w.shape[1], prod(shape), FLOOR)
    return _planes(xp, xp.reshape(flat, (1, -1)), shape)


def total(x: Array) -> Array:
    """Sum over axis 0 (a power of two long) by halves: the same rounding on numpy and on torch."""
    while x.shape[0] > 1:
        half = x.shape[0] // 2
        x = x[:half] + x[half:]
    return x[0]


def guarded(x: Array) -> Array:
    """x, to divide by: 1 is added to what is smaller than TINY."""
    return x + (abs(x) < TINY)


def rounded(xp: Array, x: Array, low: int, high: int) -> Array:
    """The nearest integer in low..high, as float32."""
    return xp.clip(xp.round(x), low, high)


def lowest(xp: Array, loss: Array, *arrays: Array) -> list[Array]:
    """The entry of each array, along axis 0, where `loss` is least; the first of equals.

    Trailing axes broadcast. A loop, because argmin over axis 0 is many times slower in torch.
    """
    least, chosen = loss[0], [a[0] for a in arrays]
    for at in range(1, loss.shape[0]):
        better = loss[at] < least
        least = xp.where(better, loss[at], least)
        chosen = [xp.where(better, a[at], c) for a, c in zip(arrays, chosen, strict=True)]
    return chosen


def search_scale(
    tile: Tile, snap: Callable[[Array], Array], ends: tuple[float, ...], rounds: int = 1
) -> Array:
    """Scale of each group, (..., blocks, rows), for weight = point * scale.

    `snap` gives the nearest point of the grid of scale 1. `ends` are places on it, between points
    and past its end allowed, where the weight of greatest size is put; the best of them is improved
    `rounds` times by snapping again with the least squares scale.
    """
    xp = tile.xp
    greatest, least = xp.max(tile.x, axis=0), xp.min(tile.x, axis=0)
    inverse = 1 / guarded(xp.where(greatest >= -least, greatest, least))
    tried = [scale_sums(tile, end * inverse, snap) for end in ends]
    energy, cross = (xp.stack(sums) for sums in zip(*tried, strict=True))
    scale = cross / guarded(energy)
    (scale,) = lowest(xp, -scale * cross, scale)
    for _ in range(rounds):
        energy, cross = scale_sums(tile, 1 / guarded(scale), snap)
        scale = cross / guarded(energy)
    return scale


def scale_sums(tile: Tile, inverse: Array, snap: Callable[[Array], Array]) -> tuple[Array, Array]:
    """Sums of point * point and of point * x for the points that a scale rounds to."""
    points = snap(tile.x * inverse)
    return total(tile.weight * points * points), total(tile.weighted * points)


def search_line(
    tile: Tile, high: int, ranges: tuple[tuple[float, float], ...], below: bool
) -> tuple[Array, Array]:
    """Scale and offset of each group, (..., blocks, rows), for weight = code * scale + offset.

    Codes are 0..high. `ranges` are the parts of the range of x that they leave out at its lower and
    its upper end; negative ones reach past it. With `below` no offset is above 0.
    """
    xp = tile.xp
    least, greatest = xp.min(tile.x, axis=0), xp.max(tile.x, axis=0)
    least = xp.clip(least, None, 0.0) if below else least
    width = greatest - least
    parts = affine_starts(ranges, high)
    starts = [
        (width * first, least + second * width)
        for first, second in zip(*parts.values(), strict=True)
    ]
    tried = [line_sums(tile, *start, high) for start in starts]
    sums = Sums(*(xp.stack([getattr(s, name) for s in tried]) for name in Sums.__annotations__))
    scale, offset = (xp.stack(part) for part in zip(*starts, strict=True))
    scale, offset = best_line(tile, sums, scale, offset, below)
    scale, offset = lowest(xp, loss(tile, sums, scale, offset), scale, offset)
    return scale, offset


def affine_starts(ranges: tuple[tuple[float, float], ...], high: int) -> dict[str, list[float]]:
    """Each range's share of the width for one code (`first`), and left out below (`second`)."""
    first = [(1 - lower - upper) / high for lower, upper in ranges]
    return {"first": first, "second": [lower for lower, _ in ranges]}


def line_sums(tile: Tile, scale: Array, offset: Array, high: int) -> Sums:
    """Sums for the codes that a scale and an offset round to."""
    codes = rounded(tile.xp, (tile.x - offset) * (1 / guarded(scale)), 0, high)
    weighed = tile.weight * codes
    return Sums(total(weighed), total(weighed * codes), total(tile.weighted * codes))


def loss(tile: Tile, sums: Sums, scale: Array, offset: Array) -> Array:
    """Squared error of code * scale + offset, less the sum of weight * x * x."""
    of_scale = scale * (scale * sums.energy + 2 * (offset * sums.codes - sums.cross))
    return of_scale + offset * (offset * tile.mass - 2 * tile.first)


def best_line(
    tile: Tile, sums: Sums, scale: Array, offset: Array, below: bool
) -> tuple[Array, Array]:
    """Least squares scale and offset; those given where all codes are the same."""
    xp = tile.xp
    both = tile.mass * sums.energy
    spread = both - sums.codes * sums.codes
    flat = spread <= 1e-6 * both
    slope = (tile.mass * sums.cross - tile.first * sums.codes) / (spread + flat)
    height = (tile.first - slope * sums.codes) / tile.mass
    if below:
        above = height > 0
        slope = xp.where(above, sums.cross / guarded(sums.energy), slope)
        height = xp.where(above, xp.zeros_like(height), height)
    return xp.where(flat, scale, slope), xp.where(flat, offset, height)
