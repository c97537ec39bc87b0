"""The step of which all weights of a block are whole multiples, if there is one.

A stored number stands for all numbers that its type rounds to it, so that every weight bounds the
step from both sides.
"""

from typing import NamedTuple

import numpy as np

MANTISSA = {"F32": 23, "F16": 10, "BF16": 7}
"""Bits of a stored number's fraction."""
LEAST_EXPONENT = {"F32": -126, "F16": -14, "BF16": -126}
"""Of normal numbers: below, steps between them stay as they are."""
TINY = 1e-12
"""What float64 may be off by."""
SLIVER = 1e-6
"""Of what lies between two stored numbers."""
HALF_BITS = 11
"""Of a float16's fraction."""
LOOKED_AT = 1 << 22
"""Numbers that are looked at at a time."""
ROUNDS = 3
"""In which the bounds of a step are drawn closer."""
TINY = 1e-12
"""What float64 may be off by."""
SLIVER = 1e-6
"""Of what lies between two stored numbers."""
HALF_BITS = 11
"""Of a float16's fraction."""
LOOKED_AT = 1 << 22
"""Numbers that are looked at at a time."""
ROUNDS = 3
"""In which the bounds of a step are drawn closer."""
MARGIN = 1e-6
"""By which bounds are widened where a step is ruled out: it is a float32."""


class Way(NamedTuple):
    """How a step is found."""

    bits: tuple[int, ...]
    """Of a step, that are tried before it is taken as it is: it was a power of two (MXFP4) or a
    float16 before, most likely; where sums or halves must come out even, the fewer bits the
    better."""
    search: bool
    """Where a weight can be several multiples: whether all steps that are right are looked for."""


def possible(blocks: np.ndarray, count: np.ndarray, stored: str) -> np.ndarray:
    """Of each block (blocks, size): whether some step could be right of which the largest weight is
    `count`: whether every weight can be a whole multiple of some step between its bounds.

    Most blocks on no grid, and most counts of those on one, end here: `steps_of` takes far longer.
    """
    size, below, above, low, high = _bounds(blocks, count, stored)
    least, most = _multiples(size - below, size + above, low, high)
    return np.asarray((least <= most).all(axis=1))


def _multiples(
    least: np.ndarray, most: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The fewest and the most times that steps from `low` to `high` (blocks,) go into numbers from
    `least` to `most` (blocks, size)."""
    fewest = np.ceil(least / high[:, None] * (1 - TINY))
    return fewest, np.floor(most / low[:, None] * (1 + TINY))


def steps_of(
    blocks: np.ndarray, count: np.ndarray, stored: str, way: Way
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The step of each block (blocks, size) whose largest weight is `count` of it; the least and
    the greatest multiple in it: all (blocks, 1) float32. A block of zeros has step 0. `way` as in
    WAYS."""
    size, below, above, low, high = _bounds(blocks, count, stored)
    dead = size.max(axis=1) == 0
    # those weights that can be but one multiple of it first, with closer bounds the others
    for last in (False,) * ROUNDS + (True,):
        multiples, most = _multiples(size - below, size + above, low, high)
        sure = multiples == most
        if last:
            middle = (low + high) / 2
            if way.search and not sure.all():
                middle = _right(size, below, above, low, high)
            fewest, most = _multiples(size - below, size + above, middle, middle)
            multiples = np.clip(np.round(size / middle[:, None]), fewest, most)
        counted = (multiples > 0) & (sure | last)
        each = np.where(counted, multiples, 1.0)
        low = np.maximum(low, np.where(counted, (size - below) / each, 0.0).max(axis=1))
        high = np.minimum(high, np.where(counted, (size + above) / each, np.inf).min(axis=1))
    step = np.where(dead, np.float32(0), _chosen(low, high, way.bits))[:, None]
    divisor = np.where(step == 0, 1, step)
    # of two multiples that are stored as one number the lesser: codes have ends
    fewest, most = _multiples(size - below, size + above, divisor[:, 0], divisor[:, 0])
    multiples = np.where(fewest <= most, fewest, np.round(size / divisor))
    return ends(step, (np.sign(blocks) * multiples)[:, None])


def _bounds(
    blocks: np.ndarray, count: np.ndarray, stored: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Magnitudes of blocks (blocks, size), how far below and above each what is stored as it may
    lie, and the bounds of a step whose `count` the largest one is: float64. 1 for blocks of zeros.
    """
    size = np.abs(blocks.astype(np.float64))
    dead = size.max(axis=1) == 0
    below, above = _reach(np.where(dead[:, None], 1.0, size), stored)
    at = np.arange(len(blocks)), size.argmax(axis=1)
    times = np.maximum(count, 1)
    low, high = (size[at] - below[at]) / times, (size[at] + above[at]) / times
    return size, below, above, np.where(dead, 1.0, low), np.where(dead, 1.0, high)


def ends(step: np.ndarray, multiples: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps (rows, blocks) and the ends of their multiples (rows, blocks, size), float32.

    Steps are doubled while all multiples are even, so that however they were found they are one.
    """
    factors = np.gcd.reduce(np.abs(multiples).astype(np.int64), axis=2)
    twos = np.maximum(factors & -factors, 1).astype(np.float32)  # the power of two in each
    wide = (step * twos).astype(np.float32)
    least, most = (end(multiples, axis=2) / twos for end in (np.min, np.max))
    return wide, least.astype(np.float32), most.astype(np.float32)


def _right(
    size: np.ndarray, below: np.ndarray, above: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Of each block the middle of some steps between two bounds of which every weight is a whole
    multiple, of those with a float16 among them if there are such; else of the bounds.

    Steps with the same multiples are those between two numbers, the lower of which is the bound or
    the least step of some multiple that a weight can be: all of them are tried.
    """
    middle = (low + high) / 2
    rows = max(1, LOOKED_AT // (5 * size.shape[1] ** 2))
    for start in range(0, len(size), rows):
        at = slice(start, start + rows)
        least, most = (size[at] - below[at])[:, None], (size[at] + above[at])[:, None]
        near = np.round(size[at] / middle[at, None])[:, :, None] + np.arange(-2, 3)
        first = (least[:, 0, :, None] / np.maximum(near, 1)).reshape(len(near), -1)
        first = np.maximum(first, low[at, None])  # (blocks, steps)
        multiples = np.floor(most / first[..., None] * (1 + TINY))
        fits = (multiples * first[..., None] >= least * (1 - TINY)).all(axis=2)
        fits &= first <= high[at, None]
        last = np.where(multiples > 0, most / np.maximum(multiples, 1), np.inf).min(axis=2)
        last = np.minimum(last, high[at, None])
        fraction, exponent = np.frexp(last)
        half = np.ldexp(np.ceil(np.ldexp(fraction, HALF_BITS)) - 1, exponent - HALF_BITS)
        # a float16 at an end may be stored as the next number
        fit = fits.astype(int) + (fits & (half >= first)) + (fits & (half > first))
        # the greatest step of them: the fewest multiples, which the codes must hold
        best = np.where(fit == fit.max(axis=1, keepdims=True), first, 0).argmax(axis=1)
        found = np.arange(len(best)), best
        middle[at] = np.where(fits[found], ((first + last) / 2)[found], middle[at])
    return middle


def _chosen(low: np.ndarray, high: np.ndarray, bits: tuple[int, ...]) -> np.ndarray:
    """A step between two bounds, float32: one with as few bits as the first of `bits` that there
    is, next to the middle; else the middle itself."""
    middle = (low + high) / 2
    step = middle.astype(np.float32)
    fraction, exponent = np.frexp(middle)
    for count in reversed(bits):
        near = np.round(np.ldexp(fraction, count))
        for ulps in (1, -1, 0):
            coarse = np.ldexp(near + ulps, exponent - count)
            step = np.where((coarse >= low) & (coarse <= high), coarse.astype(np.float32), step)
    return step


def _reach(size: np.ndarray, stored: str) -> tuple[np.ndarray, np.ndarray]:
    """How far below and above a magnitude lie the numbers that a type rounds to it, float64."""
    fraction, exponent = np.frexp(size)
    least = LEAST_EXPONENT[stored]
    spacing = np.ldexp(1.0, np.maximum(exponent - 1, least) - MANTISSA[stored])
    # below a power of two numbers are twice as dense
    dense = (fraction == 0.5) & (exponent - 1 > least)
    # from halfway an even number is rounded to, an odd one is not
    part = np.where(size / spacing % 2 == 1, 1 - SLIVER, 1.0)
    return part * np.where(dense, spacing / 4, spacing / 2), part * spacing / 2
