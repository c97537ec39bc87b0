"""Weights that lie on a grid already, and the codes that they are.

Quantization-aware training leaves whole multiples of a step in each block, stored in bf16
(Google's `-qat-q4_0-unquantized`), and so does decoding a GPTQ, AWQ or GGUF file into floats. A
search for the least error finds other steps for some blocks, and a method then moves weights that
were right. Here a block's step is sought for which every weight is a whole multiple, rounded to
the type that it is stored in: where a type's grid holds all blocks, those are the weight's codes.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from runtime.quant_types import QUANT_TYPES, QuantType
from runtime.quant_types.base import Params
from runtime.tensor import Tensor

MANTISSA = {"F32": 23, "F16": 10, "BF16": 7}
"""Bits of a stored number's fraction."""
LEAST_EXPONENT = {"F32": -126, "F16": -14, "BF16": -126}
"""Of normal numbers: below, steps between them stay as they are."""
Way = tuple[tuple[int, ...], int]
"""Bits of a step that are tried before it is taken as it is: it was a power of two (MXFP4) or a
float16 before, most likely; where sums or halves must come out even, the fewer bits the better. And
how many steps are tried between two bounds where a weight can be several multiples."""
FEW = tuple(range(1, 12))
WAYS: tuple[tuple[Way, int | None], ...] = (
    (((1, 11), 33), None),
    ((FEW, 33), None),
    ((FEW, 513), 3),
)
"""And for how many of the likeliest `counts`; None = all."""
ROUNDS = 3
"""In which the bounds of a step are drawn closer."""
SAMPLE = 64
"""Rows that are looked at before the others."""
SHARED = 256
"""Blocks that stand for all where their share on a grid is asked for."""
CHUNK = 1 << 20
"""Weights that are looked at at a time."""


class Found(NamedTuple):
    """What a type's grid makes of rows that lie on it."""

    codes: np.ndarray
    """int32 (rows, cols)."""
    params: Params
    on_grid: np.ndarray
    """Of each block (rows, blocks): whether every weight is exactly what is stored."""


def on_grid(w: np.ndarray, stored: str, qtype: QuantType) -> Found | None:
    """Codes and params of float32 rows w (rows, cols) whose blocks lie on a grid of `qtype`.

    `stored` is the type that holds the weights: F32, F16 or BF16. None where the type's grid is not
    whole multiples of a step.
    """
    rows, _ = w.shape
    blocks = w.reshape(-1, qtype.size)
    params: Params = {}
    left = np.arange(len(blocks))
    for way, count in [(way, c) for way, first in WAYS for c in counts(qtype)[:first]]:
        tried = blocks[left]
        made = qtype.of_multiples(*_steps(tried, np.full(len(left), count), stored, way))
        if made is None:
            return None
        right = _same(tried, qtype, made, stored)
        for key, values in made.items():
            known = params.setdefault(key, np.zeros((len(blocks), 1), np.float32))
            known[left[right]] = values[right]
        left = left[~right]
        if not len(left):
            break
    params = {key: values.reshape(rows, -1) for key, values in params.items()}
    found = np.ones(len(blocks), bool)
    found[left] = False
    return Found(qtype.exact_code(w, *qtype.grid(params)), params, found.reshape(rows, -1))


def exact_rows(tensor: Tensor, qtype: QuantType) -> np.ndarray | None:
    """The packed rows of a weight every block of which lies on a grid of `qtype`, else None.

    uint8 (rows, row_bytes), columns as the tensor has them packed. Some rows are looked at before
    the others, so that a weight on no grid costs next to nothing.
    """
    if tensor.qtype.ordered != qtype.ordered:
        return None
    tensor = replace(tensor, order=None)  # both have their columns as they are packed
    stored = tensor.qtype.name if tensor.qtype.name in MANTISSA else "F32"
    if qtype.is_float or tensor.scales is not None or not qtype.fits(tensor.cols):
        return None
    known = (
        tensor.qtype.size % qtype.size == 0
        and _from_codes(tensor.data[:1], tensor.qtype, qtype) is not None
    )
    if not known and not _some(tensor, stored, qtype):
        return None
    step = max(1, CHUNK // tensor.cols)
    parts = []
    for start in range(0, tensor.rows, step):
        packed = tensor.data[start : start + step]
        found = _from_codes(packed, tensor.qtype, qtype) if known else None
        if found is None:
            found = on_grid(tensor.decode(start, start + step), stored, qtype)
        if found is None or not found.on_grid.all():
            return None
        parts.append(qtype.pack(found.codes, found.params))
    return np.concatenate(parts)


def share(tensor: Tensor, qtype: QuantType) -> float:
    """Which part of a weight's blocks lies on a grid of `qtype`, by some at equal distances."""
    if not qtype.fits(tensor.cols):
        return 0.0
    blocks = tensor.cols // qtype.size
    at = np.unique(np.linspace(0, tensor.rows * blocks - 1, SHARED).astype(int))
    places = [(row, block * qtype.size) for row, block in zip(*divmod(at, blocks), strict=True)]
    picked = [tensor.decode(row, row + 1)[:, col : col + qtype.size] for row, col in places]
    stored = tensor.qtype.name if tensor.qtype.name in MANTISSA else "F32"
    found = on_grid(np.concatenate(picked), stored, qtype)
    return 0.0 if found is None else float(found.on_grid.mean())


def _from_codes(packed: np.ndarray, source: QuantType, qtype: QuantType) -> Found | None:
    """Packed rows of a source whose steps are known, in blocks of `qtype` that lie within its own.

    None where its grid is not whole multiples of a step.
    """
    codes, params = source.unpack(packed)
    known = source.multiples(codes, params)
    if known is None:
        return None
    multiples, steps = known
    step = np.repeat(np.asarray(steps, np.float32), source.size // qtype.size, axis=1)
    blocks = np.asarray(multiples, np.float32).reshape(len(packed), -1, qtype.size)
    turned = np.where(step < 0, -1, 1).astype(np.float32)  # a block's step is positive here
    blocks = blocks * turned[..., None]
    made = qtype.of_multiples(*_ends(step * turned, blocks))
    if made is None:
        return None
    values = np.asarray(source.value(codes, *source.grid(params)), np.float32)
    grid = qtype.grid(made)
    found = qtype.exact_code(values, *grid)
    same = np.asarray(qtype.value(found, *grid), np.float32) == values
    return Found(found, made, same.reshape(len(packed), -1, qtype.size).all(axis=2))


def _some(tensor: Tensor, stored: str, qtype: QuantType) -> bool:
    """Whether the first block of some rows lies on the grid, each with all steps tried at once."""
    at = np.unique(np.linspace(0, tensor.rows - 1, SAMPLE).astype(int))
    first = np.concatenate([tensor.decode(row, row + 1)[:, : qtype.size] for row in at])
    if not np.isfinite(first).all():
        return False
    for blocks in filter(len, np.split(first, [1, 4, 16])):
        right = np.zeros(len(blocks), bool)
        for way, likely in WAYS:
            tried = np.array(counts(qtype)[:likely])
            many = np.repeat(blocks, len(tried), axis=0)
            made = qtype.of_multiples(*_steps(many, np.tile(tried, len(blocks)), stored, way))
            if made is None:
                return False
            right |= _same(many, qtype, made, stored).reshape(len(blocks), -1).any(axis=1)
        if not right.all():
            return False
    return True


def counts(qtype: QuantType) -> list[int]:
    """Multiples that the weight of greatest size is tried as, the likeliest first: an end of the
    codes, or half of them."""
    most = qtype.high - qtype.lowest_held
    half = (most + 1) // 2
    return [half, half - 1, most, *range(half - 2, 0, -1), *range(most - 1, half, -1)]


def _steps(
    blocks: np.ndarray, count: np.ndarray, stored: str, way: Way
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The step of each block (blocks, size) whose largest weight is `count` of it; the least and
    the greatest multiple in it: all (blocks, 1) float32. A block of zeros has step 0. `way` as in
    WAYS."""
    size = np.abs(blocks.astype(np.float64))
    times = np.maximum(count, 1)
    dead = size.max(axis=1) == 0
    below, above = _reach(np.where(dead[:, None], 1.0, size), stored)
    at = np.arange(len(blocks)), size.argmax(axis=1)
    low, high = (size[at] - below[at]) / times, (size[at] + above[at]) / times
    low, high = np.where(dead, 1.0, low), np.where(dead, 1.0, high)
    # a stored number stands for all that round to it, so every weight bounds the step from both
    # sides: those that can be but one multiple of it first, with closer bounds the others
    for last in (False,) * ROUNDS + (True,):
        sure = np.round(size / low[:, None]) == np.round(size / high[:, None])
        middle = (
            (low + high) / 2
            if sure.all() or not last
            else _likeliest(size, below, low, high, way[1])
        )
        multiples = np.round(size / middle[:, None])
        counted = (multiples > 0) & (sure | last)
        each = np.where(counted, multiples, 1.0)
        low = np.maximum(low, np.where(counted, (size - below) / each, 0.0).max(axis=1))
        high = np.minimum(high, np.where(counted, (size + above) / each, np.inf).min(axis=1))
    step = np.where(dead, np.float32(0), _chosen(low, high, way[0]))[:, None]
    multiples = np.round(size / np.where(step == 0, 1, step))
    return _ends(step, (np.sign(blocks) * multiples)[:, None])


def _ends(step: np.ndarray, multiples: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps (rows, blocks) and the ends of their multiples (rows, blocks, size), float32.

    Steps are doubled while all multiples are even, so that however they were found they are one.
    """
    factors = np.gcd.reduce(np.abs(multiples).astype(np.int64), axis=2)
    twos = np.maximum(factors & -factors, 1).astype(np.float32)  # the power of two in each
    wide = (step * twos).astype(np.float32)
    least, most = (end(multiples, axis=2) / twos for end in (np.min, np.max))
    return wide, least.astype(np.float32), most.astype(np.float32)


def _likeliest(
    size: np.ndarray, reach: np.ndarray, low: np.ndarray, high: np.ndarray, steps: int
) -> np.ndarray:
    """Of `steps` between two bounds that of whose multiples the weights are least far, for their
    size."""
    best, least = (low + high) / 2, np.full(len(size), np.inf)
    for part in np.linspace(0, 1, steps):
        step = low + part * (high - low)
        times = size / step[:, None]
        far = (np.abs(times - np.round(times)) * step[:, None] / reach).max(axis=1)
        best, least = np.where(far < least, step, best), np.minimum(far, least)
    return best


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
    return np.where(dense, spacing / 4, spacing / 2), spacing / 2


def _same(blocks: np.ndarray, qtype: QuantType, params: Params, stored: str) -> np.ndarray:
    """Which blocks (blocks, size) are what the grid gives, rounded to the type that holds them."""
    grid = qtype.grid(params)
    values = np.asarray(qtype.value(qtype.exact_code(blocks, *grid), *grid), np.float32)
    return np.asarray((as_stored(values, stored) == blocks).all(axis=1))


def as_stored(values: np.ndarray, stored: str) -> np.ndarray:
    """float32 numbers as F32, F16 or BF16 holds them."""
    return np.asarray(QUANT_TYPES[stored].code(values, None, None))
