"""INT2, INT4 and INT8 of ONNX, GPTQ and AWQ: whole codes with a zero point, 32 to 128 a block.

In an ONNX file one weight is two or three tensors; here it is one row of records, so that every
method and reader handles it like any other layout. `split` and `join_parts` go between the two:

    record      4 or 2 bytes  scale  float32; float16 in layouts with _F16
                1 byte        zero   uint8 (layouts without _SYM only)
                then          codes  8 bits: one a byte; 4 bits: byte j = code 2j | code 2j+1 << 4
                                     2 bits: code 4j + i is bits 2i and 2i+1 of byte j

    in a file   B            uint8 (rows, blocks, codes' bytes)
                scales       float32 (rows, blocks)
                zero_points  uint8 (rows, ceil(blocks * bits / 8)), packed as codes are

weight = (code - zero) * scale, as onnxruntime computes it. Without zero points the zero is the
middle of the codes (2, 8 or 128), and a scale may be negative: the longer side on the lowest code.
GPTQ and AWQ hold float16 scales. GPTQ stores zero points less 1, and readers disagree on what a
stored -1 does to its neighbours, so that those of layouts with _F16 begin at 1.

Layouts with _ACT are the same bytes of columns in another order, which the tensor holds
(`Tensor.order`): GPTQ's act-order, where columns of like importance share a scale.
"""

from functools import cached_property
from itertools import product
from typing import ClassVar

import numpy as np
from array_api_compat import array_namespace

from runtime.quant_types.base import (
    QUANT_TYPES,
    Array,
    Params,
    QuantType,
    float16,
    normalize_importance,
)
from runtime.quant_types.bits import pack_fields, unpack_fields
from runtime.quant_types.native_fit import NativeSearch, native_search

SHRINK = {
    bits: [1 - part * step for step in range(12)]
    for bits, part in {2: 0.05, 4: 0.03, 8: 0.004}.items()
}
"""By bits: the parts of a block's range that `fit` tries to spread the codes over."""

ACT = "_ACT"
"""How the names of act-order layouts end."""

LEAST_SCALE = 2.0**-100
"""A smaller scale is stored as 0: the block holds nothing, and dividing by it would overflow."""


class OnnxInt(QuantType):
    """One layout of the module's drawing; the loop below names them."""

    code_bits: ClassVar[int]
    symmetric: ClassVar[bool]
    half: ClassVar[bool]
    """Whether scales are float16, and zero points from 1 on."""
    linear = ("scale",)
    low = 0
    floor = 0.0

    @property
    def bits(self) -> float:
        zero = 0 if self.symmetric else self.code_bits
        return self.code_bits + (8 * self.scale_type.itemsize + zero) / self.size

    @property
    def scale_type(self) -> np.dtype:
        """Of a scale in a file."""
        return np.dtype("<f2" if self.half else "<f4")

    def scale_of(self, name: str) -> str:
        """What an ONNX file calls the scales of a weight."""
        return f"{name}.scale_f16" if self.half else f"{name}.scale"

    @property
    def code_bytes(self) -> int:
        """Bytes of one block's codes."""
        return self.size * self.code_bits // 8

    @property
    def middle(self) -> int:
        """The zero point of a file that stores none."""
        return 1 << (self.code_bits - 1)

    @cached_property
    def native(self) -> NativeSearch | None:
        if self.ordered:  # the same bytes
            return self.unordered.native
        if self.symmetric:
            facts = {"first": self._symmetric_parts, "middle": self.middle, "half": self.half}
            return native_search(self, "onnx symmetric", ("scale",), **facts)
        facts = {"first": SHRINK[self.code_bits], "half": self.half}
        return native_search(self, "onnx zero point", ("scale", "zero"), **facts)

    def search(self, w: Array, importance: Array | None = None) -> Params:
        """Search scale and zero (rows, blocks) of least importance-weighted squared error."""
        xp = array_namespace(w)
        rows, cols = w.shape
        blocks = xp.astype(xp.reshape(w, (rows, cols // self.size, self.size)), xp.float32)
        top = xp.max(xp.abs(blocks), axis=-1)  # (rows, blocks)
        top = xp.where(top == 0, xp.ones_like(top), top)
        unit = blocks / top[..., None]  # squares of a huge or tiny block stay finite
        weight = xp.ones_like(unit[:1])
        if importance is not None:
            weight = xp.reshape(
                normalize_importance(xp, importance, cols, self.size, self.floor), weight.shape
            )
        tries = self._symmetric_tries(xp, unit) if self.symmetric else self._affine_tries(xp, unit)
        best_scale, best_zero, best_error = None, None, None
        for start, zero in tries:
            scale, error = self._refit(xp, unit, weight, start, zero)
            if best_error is None:
                best_scale, best_zero, best_error = scale, zero, error
                continue
            better = error < best_error
            best_scale = xp.where(better, scale, best_scale)
            best_zero = xp.where(better, zero, best_zero)
            best_error = xp.where(better, error, best_error)
        scale = best_scale * top
        scale = self.round_to_stored(scale)
        return {"scale": scale} if self.symmetric else {"scale": scale, "zero": best_zero}

    @property
    def _symmetric_parts(self) -> list[float]:
        """Parts of the block's extreme weight that are tried as its scale."""
        ends = (-self.middle, self.high - self.middle)
        return [part / end for part in SHRINK[self.code_bits] for end in ends]

    def _symmetric_tries(self, xp: Array, unit: Array) -> list[tuple[Array, Array]]:
        """Scales that put the block's extreme, or a part of it, on the lowest or highest code."""
        greatest, least = xp.max(unit, axis=-1), xp.min(unit, axis=-1)
        extreme = xp.where(greatest >= -least, greatest, least)
        zero = xp.full_like(extreme, self.middle)
        return [(extreme * part, zero) for part in self._symmetric_parts]

    def _affine_tries(self, xp: Array, unit: Array) -> list[tuple[Array, Array]]:
        """Ranges around 0, whole and shrunk; the zero point is the code nearest to 0."""
        greatest = xp.clip(xp.max(unit, axis=-1), 0.0, None)
        least = xp.clip(xp.min(unit, axis=-1), None, 0.0)
        step = (greatest - least) / self.high
        step = xp.where(step == 0, xp.ones_like(step), step)
        zero = xp.clip(xp.round(-least / step), float(self.half), self.high) + 0.0  # never -0.0
        return [(step * part, zero) for part in SHRINK[self.code_bits]]

    def _refit(
        self, xp: Array, unit: Array, weight: Array, scale: Array, zero: Array
    ) -> tuple[Array, Array]:
        """Round with a scale, then the scale that is best for those codes, and its error."""
        wide, middle = scale[..., None], zero[..., None]
        steps = xp.astype(self.code(unit, wide, middle), xp.float32) - middle
        weighted = weight * steps
        energy = _total(weighted * steps)
        empty = energy == 0
        fitted = _total(weighted * unit) / xp.where(empty, xp.ones_like(energy), energy)
        # least squares may cross 0 only when nothing but noise is left: keep the start there
        fitted = xp.where(empty | (fitted == 0), scale, fitted)
        miss = unit - steps * fitted[..., None]
        return fitted, _total(weight * miss * miss)

    def grid(self, params: Params) -> tuple[Array, Array]:
        """Scale and zero point of each weight; `offset` here is the zero point, in codes."""
        scale = params["scale"]
        xp = array_namespace(scale)
        zero = xp.full_like(scale, self.middle) if self.symmetric else params["zero"]
        return xp.repeat(scale, self.size, axis=1), xp.repeat(zero, self.size, axis=1)

    def code(self, w: Array, scale: Array, offset: Array) -> Array:
        xp = array_namespace(w)
        dead = scale == 0
        steps = xp.round(w / xp.where(dead, xp.ones_like(scale), scale))
        codes = xp.where(dead, xp.zeros_like(steps), steps) + offset
        return xp.astype(xp.clip(codes, self.low, self.high), xp.int32)

    def value(self, codes: Array, scale: Array, offset: Array) -> Array:
        xp = array_namespace(scale)
        return (xp.astype(codes, xp.float32) - offset) * scale

    def round_to_stored(self, x: Array) -> Array:
        xp = array_namespace(x)
        if self.half:
            return float16(xp, x)
        stored = xp.astype(x, xp.float32)
        return xp.where(xp.abs(stored) < LEAST_SCALE, xp.zeros_like(stored), stored)

    def pack(self, codes: Array, params: Params) -> np.ndarray:
        small: np.ndarray = np.asarray(codes).astype(np.uint8).reshape(len(codes), -1, self.size)
        small = pack_fields(small, self.code_bits, 1)
        parts = [np.ascontiguousarray(params["scale"], self.scale_type)[..., None].view(np.uint8)]
        if not self.symmetric:
            parts.append(np.asarray(params["zero"]).astype(np.uint8)[..., None])
        return np.concatenate([*parts, small], axis=-1).reshape(len(codes), -1)

    def unpack(self, data: np.ndarray) -> tuple[np.ndarray, Params]:
        rows = len(data)
        records = np.asarray(data).reshape(rows, -1, self.bytes)
        scales, zeros, small = self._fields(records)
        params = {"scale": scales.astype(np.float32)}
        if not self.symmetric:
            params["zero"] = zeros.astype(np.float32)
        small = unpack_fields(small, self.code_bits, 1)
        return small.reshape(rows, -1).astype(np.int32), params

    def zero_points(self, data: np.ndarray) -> np.ndarray:
        """uint8 (rows, blocks) of records; the middle of the codes in a symmetric layout."""
        scales, zeros, _ = self._fields(np.asarray(data).reshape(len(data), -1, self.bytes))
        return np.full(scales.shape, self.middle, np.uint8) if self.symmetric else zeros

    def multiples(self, codes: Array, params: Params) -> tuple[Array, Array] | None:
        return codes - self.grid(params)[1], params["scale"]

    def of_multiples(self, step: np.ndarray, least: np.ndarray, most: np.ndarray) -> Params | None:
        if self.symmetric:
            turned = most > self.high - self.middle
            return {"scale": self.round_to_stored(np.where(turned, -step, step))}
        # float16 folders may not say 0 (GPTQ stores it less 1): only where all codes are taken
        lowest = np.where(self.half and (most - least < self.high), 1.0, 0.0)
        zero = np.clip(-least, lowest, self.high).astype(np.float32)
        return {"scale": self.round_to_stored(step), "zero": zero}

    @property
    def unordered(self) -> QuantType:
        return QUANT_TYPES[self.name.removesuffix(ACT)]

    def widened(self, data: np.ndarray) -> tuple[QuantType, np.ndarray] | None:
        if not self.half or self.ordered:
            return None
        single = QUANT_TYPES[onnx_name(self.code_bits, self.size, self.symmetric)]
        assert isinstance(single, OnnxInt)
        return single, single.join_parts(*self.split(data))

    def split(self, data: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Records (rows, row_bytes) -> B, scales and zero_points as an ONNX file stores them."""
        records = np.asarray(data).reshape(len(data), -1, self.bytes)
        scales, zeros, codes = self._fields(records)
        if self.symmetric:
            return np.ascontiguousarray(codes), scales, None
        whole = np.pad(zeros, ((0, 0), (0, -zeros.shape[1] % (8 // self.code_bits))))
        return np.ascontiguousarray(codes), scales, pack_fields(whole, self.code_bits, 1)

    def _fields(self, records: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Records (rows, blocks, bytes) -> scales (rows, blocks), zero points (rows, blocks), which
        mean nothing in a symmetric layout, and the bytes of codes."""
        end = self.scale_type.itemsize
        scales = np.ascontiguousarray(records[..., :end]).view(self.scale_type)[..., 0]
        return scales, records[..., end], records[..., end + (not self.symmetric) :]

    def join_parts(
        self, quants: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None
    ) -> np.ndarray:
        """What `split` returned -> records uint8 (rows, row_bytes)."""
        rows, blocks = quants.shape[:2]
        stored = np.ascontiguousarray(scales, self.scale_type)
        parts = [stored.reshape(rows, blocks, 1).view(np.uint8)]
        if zeros is not None:
            zeros = unpack_fields(zeros.reshape(rows, -1), self.code_bits, 1)[:, :blocks]
            parts.append(zeros[..., None])
        return np.concatenate([*parts, quants], axis=-1).reshape(rows, -1)


def onnx_name(
    code_bits: int, size: int, symmetric: bool, half: bool = False, ordered: bool = False
) -> str:
    """Name of a layout: INT4_32, INT8_128_SYM, INT4_128_SYM_F16, INT4_128_SYM_F16_ACT..."""
    return f"INT{code_bits}_{size}" + "_SYM" * symmetric + "_F16" * half + ACT * ordered


def _total(x: Array) -> Array:
    """Sum over the last axis by halves: the same rounding on numpy and on torch."""
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        x = x[..., :half] + x[..., half:]
    return x[..., 0]


for _ordered, _half, _bits, _size, _symmetric in product(
    (False, True), (False, True), (2, 4, 8), (32, 64, 128), (False, True)
):
    _kind = (_symmetric, _half, _ordered)
    _facts = {
        "name": onnx_name(_bits, _size, *_kind),
        "size": _size,
        "group": _size,
        "bytes": (2 if _half else 4) + (not _symmetric) + _size * _bits // 8,
        "high": (1 << _bits) - 1,
        "code_bits": _bits,
        "symmetric": _symmetric,
        "half": _half,
        "ordered": _ordered,
        "narrower": onnx_name(_bits, _size // 2, *_kind) if _size > 32 else None,
    }
    type(f"Int{_bits}Of{_size}", (OnnxInt,), _facts)
