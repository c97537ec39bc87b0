"""AWQ as AutoAWQ, GPTQModel and Qwen's releases store it: 4 bits.

For a linear X of (out, in) weights, with ORDER = 0, 2, 4, 6, 1, 3, 5, 7:

    gemm   X.qweight  int32 (in, out / 8)      nibble i of word c: row 8 c + ORDER[i] of the weight
           X.qzeros   int32 (groups, out / 8)  zero points in the same order
           X.scales   float (groups, out)
    gemv   X.qweight  int32 (out, in / 8)      nibble i of word c: column 8 c + i
           X.qzeros   int32 (out, n)           nibble i of word c: zero point of group 8 c + i
           X.scales   float (out, 8 n)         the groups' scales, then zeros

weight = (code - zero) * scale. The widths of gemv are padded, so that only the settings tell how
large a group is.
"""

from functools import partial

import msgspec
import numpy as np

from runtime.errors import UnsupportedError
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
    floats,
    integer_array,
    integers,
    refuse_other_data,
)
from runtime.stored import StoredArray

BITS = 4
PER_WORD = 8
PLACES = np.argsort([0, 2, 4, 6, 1, 3, 5, 7])
"""Nibble of each of the eight rows of a word."""
HARMLESS = (*MAKING, "do_fuse", "fuse_max_seq_len", "meta", "modules_to_fuse", "sym", "zero_point")
"""Zero points are stored in any case."""


class Awq(msgspec.Struct):
    """quantization_config of AWQ."""

    bits: int | None = None
    w_bit: int | None = None
    group_size: int | None = None
    q_group_size: int | None = None
    version: str | None = None
    format: str | None = None
    checkpoint_format: str | None = None
    backend: str | None = None
    pack_dtype: str | None = None
    dynamic: dict[str, Override] | None = None
    desc_act: bool | None = None
    data_type: str | None = None
    """auto-round says it."""

    @property
    def layout(self) -> str:
        """`gemm`, `gemv`, or another one."""
        return (self.version or self.format or self.checkpoint_format or "gemm").lower()

    @property
    def group(self) -> int:
        """Columns that share a scale, -1: all."""
        found = self.group_size if self.group_size is not None else self.q_group_size
        return 128 if found is None else found


@reads("awq")
def awq(settings: Settings, arrays: Arrays) -> Readable:
    """The arrays of an AWQ checkpoint. Raises EdgequantError for what is not read."""
    found = parsed(settings, Awq, HARMLESS)
    _refuse(found)
    left = dict(arrays)
    for module in modules(arrays, "qweight"):
        parts = take(left, module, ("qweight", "qzeros", "scales"))
        group = changed(found.dynamic, module).get("group_size", found.group)
        weight = (_gemv if found.layout == "gemv" else _gemm)(module, parts, group)
        put(left, f"{module}.weight", weight)
    groups = "rows" if found.group == -1 else f"groups of {found.group}"
    return Readable(left, [original(f"AWQ ({found.layout}) of {BITS} bits in {groups}")])


def _refuse(found: Awq) -> None:
    """Raise UnsupportedError for a layout that is another one."""
    way_out = "save it as version gemm, or give the full-precision checkpoint"
    if found.layout not in ("gemm", "gemv"):
        raise UnsupportedError(
            f"AWQ of version {found.layout!r} is not read, only gemm and gemv; {way_out}."
        )
    refuse_other_data("AWQ", found.data_type, way_out)
    if found.backend == "llm-awq" or found.pack_dtype not in (None, "int32"):
        raise UnsupportedError(f"AWQ packed in words of 16 bits is not read; {way_out}.")
    settings: list[Awq | Override] = [found, *(found.dynamic or {}).values()]
    if other := {found.w_bit, *(own.bits for own in settings)} - {None, BITS}:
        raise UnsupportedError(f"AWQ of {other.pop()} bits is not read, only of 4; {way_out}.")
    groups = {found.group, *(own.group_size for own in settings)} - {None, -1}
    if wrong := [group for group in groups if group is not None and group < 1]:
        raise UnsupportedError(f"AWQ in groups of {wrong[0]} is not read; {way_out}.")
    if found.desc_act:
        raise UnsupportedError(f"AWQ with desc_act is not read; {way_out}.")


def _gemm(module: str, parts: dict[str, StoredArray], group: int) -> IntegerArray:
    """A weight whose words hold eight of its rows."""
    inputs, words = check_matrix(f"{module}.qweight", parts["qweight"], ("I32",))
    group = inputs if group == -1 else group
    groups = -(-inputs // group)
    check(f"{module}.scales", parts["scales"], (groups, PER_WORD * words), FLOATS)
    check(f"{module}.qzeros", parts["qzeros"], (groups, words), ("I32",))
    arrays = parts["qweight"], parts["qzeros"], parts["scales"]
    rows = partial(_gemm_rows, *arrays)
    grid = Grid(BITS, group, symmetric=False, half=parts["scales"].dtype == "F16")
    return integer_array((PER_WORD * words, inputs), arrays, grid, rows)


def _gemm_rows(
    qweight: StoredArray, qzeros: StoredArray, scales: StoredArray, start: int, stop: int
) -> Coded:
    """Rows of the weight; `start` and `stop` are multiples of 8."""
    words = slice(start // PER_WORD, stop // PER_WORD)
    codes, zeros = (_in_order(integers(array)[:, words]).T for array in (qweight, qzeros))
    return Coded(codes, zeros, float_columns(scales, start, stop).T)


def _in_order(words: np.ndarray) -> np.ndarray:
    """Nibbles of int32 (n, words) in the order of the rows they belong to: uint8 (n, 8 words)."""
    nibbles = dense_fields(words, BITS).reshape(len(words), -1, PER_WORD)
    return nibbles[..., PLACES].reshape(len(words), -1)


def _gemv(module: str, parts: dict[str, StoredArray], group: int) -> IntegerArray:
    """A weight whose words hold eight of its columns."""
    qweight, qzeros = parts["qweight"], parts["qzeros"]
    outputs, words = check_matrix(f"{module}.qweight", qweight, ("I32",))
    inputs = PER_WORD * words
    group = inputs if group == -1 else group
    groups = -(-inputs // group)
    width = check_matrix(f"{module}.qzeros", qzeros, ("I32",))[1]
    check(f"{module}.qzeros", qzeros, (outputs, max(width, -(-groups // PER_WORD))), ("I32",))
    check(f"{module}.scales", parts["scales"], (outputs, PER_WORD * width), FLOATS)
    arrays = qweight, qzeros, parts["scales"]
    rows = partial(_gemv_rows, *arrays, groups)
    grid = Grid(BITS, group, symmetric=False, half=parts["scales"].dtype == "F16")
    return integer_array((outputs, inputs), arrays, grid, rows)


def _gemv_rows(
    qweight: StoredArray,
    qzeros: StoredArray,
    scales: StoredArray,
    groups: int,
    start: int,
    stop: int,
) -> Coded:
    """Rows of the weight."""
    codes, zeros = (dense_fields(integers(array)[start:stop], BITS) for array in (qweight, qzeros))
    return Coded(codes, zeros[:, :groups], floats(scales)[start:stop, :groups])
