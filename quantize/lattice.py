"""Weights that lie on a grid already, and the codes that they are.

Quantization-aware training leaves whole multiples of a step in each block, stored in bf16
(Google's `-qat-q4_0-unquantized`), and so does decoding a GPTQ, AWQ or GGUF file into floats. A
search for the least error finds other steps for some blocks, and a method then moves weights that
were right. Here a block's step is sought for which every weight is a whole multiple, rounded to
the type that it is stored in: where a type's grid holds all blocks, those are the weight's codes.
"""

from dataclasses import replace
from itertools import product
from typing import NamedTuple

import numpy as np

from quantize.lattice_steps import HALF_BITS, MANTISSA, Way, ends, possible, steps_of
from runtime.quant_types import QUANT_TYPES, QuantType
from runtime.quant_types.base import Array, Params
from runtime.tensor import Tensor

WAYS = (
    Way((1, HALF_BITS), search=False),
    Way((1, HALF_BITS), search=True),
    Way(tuple(range(1, HALF_BITS + 1)), search=True),
)
"""How a step is looked for, one way after the other."""
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
    nothing = np.zeros((len(blocks), 1), np.float32)
    params = qtype.of_multiples(nothing, nothing, nothing)
    if params is None:
        return None
    left = np.arange(len(blocks))
    for way, count in product(WAYS, counts(qtype)):
        likely = left[possible(blocks[left], np.full(len(left), count), stored)]
        if not len(likely):
            continue
        tried = _tried(blocks[likely], np.full(len(likely), count), stored, way, qtype)
        right = likely[tried.right]
        for key, values in tried.params.items():
            params[key][right] = values[tried.right]
        left = np.setdiff1d(left, right, assume_unique=True)
        if not len(left):
            break
    params = {key: values.reshape(rows, -1) for key, values in params.items()}
    found = np.ones(len(blocks), bool)
    found[left] = False
    return Found(_codes(w, qtype, params, stored), params, found.reshape(rows, -1))


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
    made = qtype.of_multiples(*ends(step * turned, blocks))
    if made is None:
        return None
    values = np.asarray(source.value(codes, *source.grid(params)), np.float32)
    grid = qtype.grid(made)
    found = qtype.exact_code(values, *grid)
    same = np.asarray(qtype.value(found, *grid), np.float32) == values
    return Found(found, made, same.reshape(len(packed), -1, qtype.size).all(axis=2))


def _some(tensor: Tensor, stored: str, qtype: QuantType) -> bool:
    """Whether the first block of some rows lies on the grid, each with all steps tried at once."""
    nothing = np.zeros((1, 1), np.float32)
    if qtype.of_multiples(nothing, nothing, nothing) is None:
        return False
    rows = np.unique(np.linspace(0, tensor.rows - 1, SAMPLE).astype(int))
    tried = np.array(counts(qtype))
    for some in filter(len, np.split(rows, [1, 4, 16])):
        blocks = np.concatenate([tensor.decode(row, row + 1)[:, : qtype.size] for row in some])
        if not np.isfinite(blocks).all():
            return False
        right = np.zeros(len(blocks), bool)
        many, count = np.repeat(blocks, len(tried), axis=0), np.tile(tried, len(blocks))
        likely = np.flatnonzero(possible(many, count, stored))
        for way in WAYS:
            at = likely[~right[likely // len(tried)]]
            found = at[_tried(many[at], count[at], stored, way, qtype).right]
            right[found // len(tried)] = True
        if not right.all():
            return False
    return True


class Tried(NamedTuple):
    """What blocks with a step each are as a type's codes."""

    params: Params
    right: np.ndarray
    """Of each block: whether every weight is exactly what is stored."""


def _tried(blocks: np.ndarray, count: np.ndarray, stored: str, way: Way, qtype: QuantType) -> Tried:
    """Blocks with the step of which the largest weight is `count`."""
    params = qtype.of_multiples(*steps_of(blocks, count, stored, way))
    assert params is not None  # asked of the type before
    return Tried(params, _same(blocks, qtype, params, stored))


def counts(qtype: QuantType) -> list[int]:
    """Multiples that the weight of greatest size is tried as, the likeliest first: an end of the
    codes, or half of them."""
    most = qtype.high - qtype.lowest_held
    half = (most + 1) // 2
    return [half, half - 1, most, *range(half - 2, 0, -1), *range(most - 1, half, -1)]


def _same(blocks: np.ndarray, qtype: QuantType, params: Params, stored: str) -> np.ndarray:
    """Which blocks (blocks, size) are what the grid gives, rounded to the type that holds them."""
    values = qtype.value(_codes(blocks, qtype, params, stored), *qtype.grid(params))
    return np.asarray((as_stored(values, stored) == blocks).all(axis=1))


def _codes(w: np.ndarray, qtype: QuantType, params: Params, stored: str) -> np.ndarray:
    """Codes of weights that lie on the grid, int32; of weights that do not, the nearest.

    Next to a power of two the nearest code may be stored as the number below it, and another one as
    this: numbers are denser below.
    """
    grid = qtype.grid(params)
    codes = np.asarray(qtype.exact_code(w, *grid))
    if stored == "F32" or (off := as_stored(qtype.value(codes, *grid), stored) != w).sum() == 0:
        return codes
    for beside in (codes - 1, codes + 1):
        beside = np.clip(beside, qtype.lowest_held, qtype.high)
        codes = np.where(off & (as_stored(qtype.value(beside, *grid), stored) == w), beside, codes)
    return codes


def as_stored(values: Array, stored: str) -> np.ndarray:
    """float32 numbers as F32, F16 or BF16 holds them."""
    return np.asarray(QUANT_TYPES[stored].code(np.asarray(values, np.float32), None, None))
