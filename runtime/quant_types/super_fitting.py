"""Scales of super-blocks: small integers, one a sub-block, on one float16 scale (and one minimum).

The stored scale of a sub-block is a product, so neither factor can be chosen alone. For fixed codes
the squared error is a quadratic in both, known from a few sums: `Sums`. Each round picks the best
float16 for the integers and the best integers for it, then rounds the weights again; the best round
is kept.

Shapes: weights of a tile are (group, sub-blocks, blocks, rows), integers (sub-blocks, blocks,
rows), d and dmin (blocks, rows).
"""

from collections.abc import Callable

from runtime.quant_types.base import Array, Params, float16
from runtime.quant_types.fitting import (
    Sums,
    Tile,
    best_line,
    guarded,
    line_sums,
    loss,
    lowest,
    rounded,
    scale_sums,
    search_line,
    search_scale,
    total,
)


def fit_lines(
    tile: Tile,
    high: int,
    most: int,
    ranges: tuple[tuple[float, float], ...],
    parts: tuple[float, ...],
    rounds: int,
) -> Params:
    """d, dmin, scales and mins of weight = d * scale * code - dmin * min, integers in 0..most.

    `ranges` are those of `search_line`; `parts` the shares of the largest sub-block's scale that
    are tried as the one stored as `most`.
    """
    xp = tile.xp
    scale, offset = search_line(tile, high, ranges, below=True)
    sums = line_sums(tile, scale, offset, high)
    scale, offset = best_line(tile, sums, scale, offset, below=True)
    state = start_lines(tile, sums, scale, -offset, most, parts)
    states, losses = [], []
    for turn in range(rounds):
        scale, offset = stored_line(state)
        sums = line_sums(tile, scale, offset, high)
        states.append(state)
        losses.append(total(loss(tile, sums, scale, offset)))
        if turn + 1 < rounds:
            state = improve_lines(tile, sums, state, most)
    d, dmin, scales, mins = (xp.stack(part) for part in zip(*states, strict=True))
    d, dmin, scales, mins = lowest(xp, xp.stack(losses), d, dmin, scales, mins)
    return {"d": d, "dmin": dmin, "scales": scales, "mins": mins}


def stored_line(state: tuple[Array, ...]) -> tuple[Array, Array]:
    """Scale and offset of the sub-blocks, as a reader multiplies them."""
    d, dmin, scales, mins = state
    return d * scales, -(dmin * mins)


def whole(xp: Array, x: Array, least: int, most: int) -> Array:
    """The nearest integer of the range; never -0.0, whose sign no integer can store."""
    return rounded(xp, x, least, most) + 0.0


def start_lines(
    tile: Tile, sums: Sums, scale: Array, minimum: Array, most: int, parts: tuple[float, ...]
) -> tuple[Array, ...]:
    """d, dmin, scales and mins that lose least beside the sub-blocks' own scale and minimum."""
    xp = tile.xp
    top, low = xp.max(scale, axis=0), xp.max(minimum, axis=0)
    d = float16(xp, xp.stack([top * (part / most) for part in parts]))
    dmin = float16(xp, low * (1 / most))
    scales, mins = integers(tile, sums, scale, d[:, None], dmin, most)
    cost = loss(tile, sums, d[:, None] * scales, -(dmin * mins))
    cost = total(xp.permute_dims(cost, (1, 0, 2, 3)))
    d, scales, mins = lowest(xp, cost, d, scales, mins)
    return d, dmin, scales, mins


def integers(
    tile: Tile, sums: Sums, scale: Array, d: Array, dmin: Array, most: int
) -> tuple[Array, Array]:
    """Scales and mins on d and dmin: a neighbour of the scale, and the best minimum beside it."""
    xp = tile.xp
    ratio = scale / guarded(d)
    scales = whole(xp, xp.stack([xp.floor(ratio), xp.ceil(ratio)]), 0, most)
    minimum = (d * scales * sums.codes - tile.first) / tile.mass
    mins = whole(xp, minimum / guarded(dmin), 0, most)
    scales, mins = lowest(xp, loss(tile, sums, d * scales, -(dmin * mins)), scales, mins)
    return scales, mins


def improve_lines(tile: Tile, sums: Sums, state: tuple[Array, ...], most: int) -> tuple[Array, ...]:
    """The best d and dmin for the integers and codes, then the best integers for those."""
    xp = tile.xp
    d, dmin, scales, mins = state
    slope, height = total(scales * scales * sums.energy), total(mins * mins * tile.mass)
    both = total(scales * mins * sums.codes)
    rise, drop = total(scales * sums.cross), total(mins * tile.first)
    spread = slope * height - both * both
    flat = spread <= 1e-6 * slope * height
    dmin = xp.where(flat, dmin, float16(xp, (both * rise - slope * drop) / (spread + flat)))
    d = float16(xp, (rise + both * dmin) / guarded(slope))  # the best beside dmin as stored
    scale, _ = best_line(tile, sums, d * scales, -(dmin * mins), below=True)
    return d, dmin, *integers(tile, sums, scale, d, dmin, most)


def fit_scales(
    tile: Tile,
    snap: Callable[[Array], Array],
    ends: tuple[float, ...],
    span: tuple[int, int],
    rounds: int,
) -> Params:
    """d and scales of weight = d * scale * point; scales lie in `span`, the lowest one included.

    `snap` and `ends` are those of `search_scale`.
    """
    xp = tile.xp
    scale = search_scale(tile, snap, ends)
    greatest, least = xp.max(scale, axis=0), xp.min(scale, axis=0)
    d = float16(xp, xp.where(greatest >= -least, greatest, least) * (1 / span[0]))
    scales = whole(xp, scale / guarded(d), *span)
    states, losses = [], []
    for turn in range(rounds):
        energy, cross = scale_sums(tile, 1 / guarded(d * scales), snap)
        states.append((d, scales))
        losses.append(total(d * scales * (d * scales * energy - 2 * cross)))
        if turn + 1 < rounds:
            push, pull = total(scales * scales * energy), total(scales * cross)
            d = xp.where(push == 0, d, float16(xp, pull / guarded(push)))
            scales = whole(xp, cross / guarded(energy) / guarded(d), *span)
    d, scales = lowest(xp, xp.stack(losses), *map(xp.stack, zip(*states, strict=True)))
    return {"d": d, "scales": scales}
