"""What a block layout says: how to fit a grid to weights, the grid, and the bytes both ways.

Every method, writer, reader and test uses just these words, so adding a layout is adding a file:

    search(w, importance)         -> params   scales, already rounded to what the file can store
    fit(w, importance)            -> params   the same, in C++ where the layout has a native search
    grid(params)                  -> scale, offset, shaped like w
    code(w, scale, offset)        -> codes    nearest point of the grid, element by element
    value(codes, scale, offset)   -> weights  what the reader of the file will see
    pack(codes, params)           -> bytes    never rounds again
    unpack(bytes)                 -> codes, params

`search`, `grid`, `code` and `value` are written against the array API: the same text runs on numpy
and on torch (CPU or CUDA). `pack` and `unpack` are numpy only.
"""

from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from array_api_compat import array_namespace, device

from runtime.errors import InputError
from runtime.quant_types.native_fit import NativeSearch

Array = Any
"""A numpy array or a torch tensor; see `array_api_compat`."""

Params = dict[str, Array]
"""Stored numbers of a run of blocks: arrays (rows, blocks, ...), so runs concatenate on axis 1."""

F16_MAX = 65504.0
"""Greatest float16."""
FLOOR = 2.0**-20
"""Least importance beside the block's greatest: columns without input still get a sensible grid."""

PIECE = 1 << 22
"""Weights that are decoded at a time."""

QUANT_TYPES: dict[str, "QuantType"] = {}
"""Every block layout by its name; filled by the class lines."""


class QuantType:
    """One byte layout. Subclasses are stateless; naming one registers it."""

    name: ClassVar[str]
    """The format's own name, such as "Q4_K"."""
    size: ClassVar[int]
    """Weights in one block: a row must be a multiple of it."""
    bytes: ClassVar[int]
    """Bytes of one packed block."""
    group: ClassVar[int]
    """Weights that share one scale (the sub-block)."""
    low: ClassVar[int]
    high: ClassVar[int]
    """Least and greatest code."""
    ggml_type: ClassVar[int | None] = None
    """Type number inside a GGUF file; None when GGUF cannot hold it."""
    is_float: ClassVar[bool] = False
    """True for F32, F16 and BF16: nothing is fitted, a method has nothing to choose."""
    ordered: ClassVar[bool] = False
    """Whether rows are packed in an order of their columns that stands beside them: act-order."""
    linear: ClassVar[tuple[str, ...]] = ()
    """Params that a weight is linear in while its code and all other params stay: see `basis`."""
    floor: ClassVar[float] = FLOOR
    """Least importance beside the block's greatest (see `normalize_importance`)."""
    narrower: ClassVar[str | None] = None
    """Next best type with shorter blocks, for rows that `size` does not divide; GGUF: llama.cpp's.
    None where there is no such type: the container then says what such a row becomes.
    """

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            QUANT_TYPES[cls.name] = cls()

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process takes its own, by the name."""
        return quant_type, (self.name,)

    @property
    def bits(self) -> float:
        """Bits one weight takes in the file, scales included."""
        return 8 * self.bytes / self.size

    def row_bytes(self, cols: int) -> int:
        """Bytes of one packed row of `cols` weights."""
        return cols // self.size * self.bytes

    def fits(self, cols: int) -> bool:
        """Whether rows of `cols` weights can be packed."""
        return cols % self.size == 0

    @cached_property
    def native(self) -> NativeSearch | None:
        """The search in C++; None where there is none, or it is not compiled."""
        return None

    def fit(self, w: Array, importance: Array | None = None) -> Params:
        """`search`, done in C++ where that can be: the same params, bit for bit."""
        if self.native is None or str(device(w)) != "cpu":
            return self.search(w, importance)
        xp = array_namespace(w)
        weight = None if importance is None else numpy_of(importance)
        weights = numpy_of(w).astype(np.float32, copy=False)
        params = self.native.fit(
            weights, normalize_importance(np, weight, w.shape[1], self.size, self.floor)
        )
        return {key: xp.asarray(stored) for key, stored in params.items()}

    def search(self, w: Array, importance: Array | None = None) -> Params:
        """Choose the stored numbers for w (rows, cols).

        Importance (cols,) weighs squared errors; None weighs all the same.
        """
        raise NotImplementedError

    def grid(self, params: Params) -> tuple[Array, Array]:
        """Scale and offset, both (rows, cols) float32: weight = code * scale + offset."""
        raise NotImplementedError

    def code(self, w: Array, scale: Array, offset: Array) -> Array:
        """Nearest code of each weight, int32, shaped like w; a zero scale gives code 0."""
        xp = array_namespace(w)
        dead = scale == 0
        codes = xp.round((w - offset) / xp.where(dead, xp.ones_like(scale), scale))
        codes = xp.where(dead, xp.zeros_like(codes), codes)
        return xp.astype(xp.clip(codes, self.low, self.high), xp.int32)

    @property
    def lowest_held(self) -> int:
        """The least code that is read; no rounding writes one below `low`."""
        return self.low

    def exact_code(self, w: Array, scale: Array, offset: Array) -> Array:
        """Codes of weights that lie on the grid, int32; also those that no rounding writes."""
        codes = self.code(w, scale, offset)
        if self.lowest_held == self.low:
            return codes
        xp = array_namespace(w)
        below = (w - offset) / xp.where(scale == 0, xp.ones_like(scale), scale) < self.low - 0.5
        return xp.where(below, xp.full_like(codes, self.lowest_held), codes)

    def value(self, codes: Array, scale: Array, offset: Array) -> Array:
        """The float32 weights that a reader of the file sees, shaped like codes."""
        xp = array_namespace(scale)
        return xp.astype(codes, xp.float32) * scale + offset

    def basis(self, codes: Array, params: Params) -> list[Array]:
        """What one unit of each `linear` param adds to a weight, shaped like codes, float32.

        With fixed codes a block's weights are the sum of these times its params, so that the best
        params are a least squares problem.
        """
        xp = array_namespace(codes)
        zeros = {key: xp.zeros_like(params[key]) for key in self.linear}
        units = ({key: xp.ones_like(params[key])} for key in self.linear)
        return [self.value(codes, *self.grid({**params, **zeros, **unit})) for unit in units]

    def round_to_stored(self, x: Array) -> Array:
        """The numbers nearest to x that the file can hold as `linear` params, float32."""
        return float16(array_namespace(x), x)

    def pack(self, codes: Array, params: Params) -> np.ndarray:
        """Codes (rows, cols) and params -> uint8 (rows, row_bytes). Never rounds."""
        raise NotImplementedError

    def unpack(self, data: np.ndarray) -> tuple[np.ndarray, Params]:
        """uint8 (rows, row_bytes) -> codes (rows, cols) and params."""
        raise NotImplementedError

    def decode(self, data: np.ndarray) -> np.ndarray:
        """uint8 (rows, row_bytes) -> float32 (rows, cols), bit for bit what readers see."""
        return self.in_pieces(data, PIECE)

    def in_pieces(self, data: np.ndarray, most: int) -> np.ndarray:
        """`decode`, with codes and scales of at most `most` weights, or of a row, beside it."""
        cols = data.shape[-1] // self.bytes * self.size
        step = max(1, most // max(1, cols))
        if len(data) <= step:
            codes, params = self.unpack(data)
            return np.asarray(self.value(codes, *self.grid(params)), np.float32)
        out: np.ndarray = np.empty((len(data), cols), np.float32)
        for start in range(0, len(data), step):
            out[start : start + step] = self.in_pieces(data[start : start + step], most)
        return out

    def multiples(self, codes: Array, params: Params) -> tuple[Array, Array] | None:
        """Weights (rows, cols) as whole multiples of the step of their block, and the steps (rows,
        blocks); None for a layout whose grid is no such multiples."""
        return None

    def of_multiples(self, step: np.ndarray, least: np.ndarray, most: np.ndarray) -> Params | None:
        """Params of blocks of whole multiples of a step, all (rows, blocks) float32.

        `least` and `most` are the ends of those multiples. Blocks whose multiples are more than
        the codes get some params. None for a layout whose grid is no such multiples.
        """
        return None

    @property
    def unordered(self) -> "QuantType":
        """The layout of the same bytes whose columns come in their own order."""
        return self

    def widened(self, data: np.ndarray) -> "tuple[QuantType, np.ndarray] | None":
        """Another type with the very same weights that kernels multiply with, and its bytes of
        uint8 (rows, row_bytes); None where there is none."""
        return None

    def quantize(self, w: Array, importance: Array | None = None) -> tuple[Array, Params]:
        """Round to nearest on the fitted grid: codes (rows, cols) and params."""
        params = self.fit(w, importance)
        return self.code(w, *self.grid(params)), params


def quant_type(name: str) -> QuantType:
    """The layout called `name`, in any case. Raises EdgequantError naming the known ones."""
    for known, qtype in QUANT_TYPES.items():
        if known.lower() == name.lower():
            return qtype
    raise InputError(f"unknown type {name!r}; known: {', '.join(QUANT_TYPES)}.")


def normalize_importance(
    xp: Array, importance: Array | None, cols: int, size: int, floor: float
) -> Array:
    """Importance (cols,) over its greatest in each block of `size`, at least `floor`, float32.

    A block without any importance, and None, weigh all alike.
    """
    if importance is None:
        return xp.ones(cols, dtype=xp.float32)
    blocks = xp.reshape(xp.astype(importance, xp.float32), (-1, size))
    most = xp.max(blocks, axis=1, keepdims=True)
    parts = xp.where(most > 0, blocks / (most + (most == 0)), xp.ones_like(blocks))
    return xp.reshape(xp.clip(parts, floor, None), (-1,))


def float16(xp: Array, x: Array) -> Array:
    """The nearest float16, as float32; what is past the greatest becomes the greatest."""
    stored = xp.astype(xp.clip(x, -F16_MAX, F16_MAX), xp.float16)
    return xp.astype(stored, xp.float32)


def join(parts: list[Params]) -> Params:
    """Params of neighbouring column runs -> params of the whole row."""
    xp = array_namespace(*parts[0].values()) if parts[0] else np
    return {key: xp.concat([part[key] for part in parts], axis=1) for key in parts[0]}


def to_numpy(params: Params) -> Params:
    """Params with every array as numpy, ready to pack."""
    return {key: numpy_of(value) for key, value in params.items()}


def numpy_of(x: Array) -> np.ndarray:
    """A numpy or torch array (any device) as numpy."""
    return np.asarray(x.detach().cpu().numpy() if hasattr(x, "detach") else x)
