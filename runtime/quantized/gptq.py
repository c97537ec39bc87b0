"""GPTQ as auto-gptq, GPTQModel, optimum and Qwen's releases store it.

For a linear X of (out, in) weights with codes of b bits:

    X.qweight  int32 (in b / 32, out)      column n: the codes of row n of the weight, densely
                                           packed along `in`, the lowest bits first
    X.qzeros   int32 (groups, out b / 32)  zero points, packed along `out`; `gptq` stores each less
                                           1 modulo 2^b, `gptq_v2` as it is
    X.scales   float  (groups, out)
    X.g_idx    int32 (in,)                 group of each column; may be left out where it is
                                           column // group

weight = (code - zero) * scale.
"""

from functools import partial

import msgspec
import numpy as np

from runtime.errors import CorruptFileError, UnsupportedError
from runtime.quantized.base import (
    MAKING,
    Arrays,
    Readable,
    Settings,
    check,
    check_matrix,
    modules,
    original,
    parsed,
    put,
    reads,
    take,
)
from runtime.quantized.dynamic import Override, changed
from runtime.quantized.integers import (
    FLOATS,
    Coded,
    Grid,
    IntegerArray,
    dense_fields,
    float_columns,
    group_order,
    integer_array,
    integers,
    refuse_other_data,
    scattered_notes,
)
from runtime.stored import StoredArray

FORMATS = ("gptq", "gptq_v2")
HARMLESS = (*MAKING, "backend")


class Meta(msgspec.Struct):
    """`meta` of GPTQModel."""

    quantizer: str | list[str] | None = None


class Gptq(msgspec.Struct):
    """quantization_config of GPTQ."""

    bits: int
    group_size: int = 128
    sym: bool | None = None
    desc_act: bool | None = None
    checkpoint_format: str | None = None
    format: str | None = None
    """Another name for the former."""
    pack_dtype: str | None = None
    dynamic: dict[str, Override] | None = None
    meta: Meta | None = None
    data_type: str | None = None
    """auto-round says it."""

    @property
    def stored_format(self) -> str:
        """`gptq` or `gptq_v2`."""
        return self.checkpoint_format or self.format or FORMATS[0]

    @property
    def carries(self) -> bool:
        """GPTQModel subtracts from whole words: what a zero point of 0 borrows, adding returns."""
        made_by = (self.meta.quantizer if self.meta else None) or ()
        names = [made_by] if isinstance(made_by, str) else made_by
        return any(name.startswith("gptqmodel") for name in names)


@reads("gptq")
def gptq(settings: Settings, arrays: Arrays) -> Readable:
    """The arrays of a GPTQ checkpoint. Raises EdgequantError for what is not read."""
    found = parsed(settings, Gptq, HARMLESS)
    _refuse(found)
    left = dict(arrays)
    for module in modules(arrays, "qweight"):
        own = msgspec.structs.replace(found, **changed(found.dynamic, module))
        needed, more = ("qweight", "qzeros", "scales"), ("g_idx",)
        # columns that are out of order cannot be read without it
        parts = take(left, module, (*needed, *more) if own.desc_act else needed, more)
        put(left, f"{module}.weight", _weight(own, module, parts))
    return Readable(left, [_what(found), *scattered_notes(left)])


def _refuse(found: Gptq) -> None:
    """Raise UnsupportedError for a layout that is another one."""
    way_out = "save it in the format gptq, or give the full-precision checkpoint"
    if found.stored_format not in FORMATS:
        raise UnsupportedError(
            f"the GPTQ format {found.stored_format!r} is not read, only {' and '.join(FORMATS)}; "
            f"{way_out}."
        )
    if found.format and found.format != found.stored_format:
        raise UnsupportedError(
            f"quantization_config says checkpoint_format {found.checkpoint_format} and format "
            f"{found.format}, which store zero points otherwise; take out the wrong one."
        )
    refuse_other_data("GPTQ", found.data_type, way_out)
    if found.pack_dtype not in (None, "int32"):
        raise UnsupportedError(f"GPTQ packed in {found.pack_dtype} is not read; {way_out}.")
    settings: list[Gptq | Override] = [found, *(found.dynamic or {}).values()]
    for own in settings:
        bits, group = own.bits, own.group_size
        if bits not in (2, 3, 4, 8, None) or (group is not None and group < 1 and group != -1):
            raise UnsupportedError(
                f"GPTQ of {bits} bits in groups of {group} is not read, only of 2, 3, 4 and 8 "
                f"bits; {way_out}."
            )


def _weight(own: Gptq, module: str, parts: dict[str, StoredArray]) -> IntegerArray:
    """The weight of one module, once its arrays fit together."""
    words, outputs = check_matrix(f"{module}.qweight", parts["qweight"], ("I32",))
    inputs = words * 32 // own.bits
    group = inputs if own.group_size == -1 else own.group_size
    groups = -(-inputs // group)
    check(f"{module}.scales", parts["scales"], (groups, outputs), FLOATS)
    check(f"{module}.qzeros", parts["qzeros"], (groups, outputs * own.bits // 32), ("I32",))
    order = group_order(f"{module}.g_idx", parts.get("g_idx"), inputs, group)
    grid = Grid(own.bits, group, bool(own.sym), parts["scales"].dtype == "F16", order)
    if own.sym:
        _check_middle(own, module, parts["qzeros"])
    rows = partial(_rows, own, parts["qweight"], parts["qzeros"], parts["scales"])
    return integer_array((outputs, inputs), tuple(parts.values()), grid, rows)


def _check_middle(own: Gptq, module: str, qzeros: StoredArray) -> None:
    """Raise CorruptFileError for symmetric weights whose zero points are not in the middle."""
    zeros = _zeros(own, integers(qzeros))
    qzeros.drop()
    if not np.all(zeros == 1 << (own.bits - 1)):
        other = FORMATS[own.stored_format == FORMATS[0]]
        raise CorruptFileError(
            f"quantization_config says sym and {own.stored_format}, but zero points of {module} "
            f"are {zeros.min()} to {zeros.max()}, not {1 << (own.bits - 1)}; correct "
            f"checkpoint_format, which may be {other}, or write sym false to have them as they are."
        )


def _zeros(own: Gptq, words: np.ndarray) -> np.ndarray:
    """Zero points (groups, out) of packed ones, int32 (groups, words)."""
    if own.stored_format == "gptq_v2":
        return dense_fields(words, own.bits)
    if own.carries and 8 % own.bits == 0:
        ones = sum(1 << at for at in range(0, 32, own.bits))
        return dense_fields(words.view(np.uint32) + np.uint32(ones), own.bits)
    return dense_fields(words, own.bits) + np.uint8(1) & np.uint8((1 << own.bits) - 1)


def _rows(
    own: Gptq, qweight: StoredArray, qzeros: StoredArray, scales: StoredArray, start: int, stop: int
) -> Coded:
    """Rows of the weight; `start` is a multiple of 32."""
    codes = dense_fields(integers(qweight)[:, start:stop].T, own.bits)
    words = integers(qzeros)[:, start * own.bits // 32 : -(-stop * own.bits // 32)]
    zeros = _zeros(own, np.ascontiguousarray(words))[:, : stop - start].T
    return Coded(codes, zeros, float_columns(scales, start, stop).T)


def _what(found: Gptq) -> str:
    """The note of what the source is."""
    groups = "rows" if found.group_size == -1 else f"groups of {found.group_size}"
    some = ", other modules otherwise" if found.dynamic else ""
    how = "symmetric" if found.sym else "with zero points"
    return original(f"GPTQ of {found.bits} bits in {groups}, {how}{some}")
