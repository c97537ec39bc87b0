"""bitsandbytes, as transformers saves it.

4 bits, of a linear X whose weights (out, in) are cut into blocks one row after the other, so that
a block may begin in one row and end in the next:

    X.weight                  any type: two codes a byte, the first in the high half
    X.weight.quant_map        float32 (16,): value of each code, of nf4 or fp4
    X.weight.absmax           float32 (blocks,); or uint8, itself in blocks, with
    X.weight.nested_quant_map    float32 (256,): value of each
    X.weight.nested_absmax       float32 (blocks of them,)
    X.weight.quant_state.bitsandbytes__nf4, or __fp4
                              uint8: JSON of shape, blocksize, nested_blocksize, nested_offset

    absmax = quant_map[code] * nested_absmax + nested_offset, where it is nested
    weight = quant_map[code] * absmax

8 bits (LLM.int8):

    X.weight         int8 (out, in)
    X.SCB            float32 (out,)
    X.weight_format  uint8: 0, rows as they are

    weight = code * SCB / 127
"""

from functools import partial

import msgspec
import numpy as np

from runtime.errors import CorruptFileError, UnsupportedError
from runtime.json_types import Finite, Size
from runtime.quantized.base import (
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
from runtime.quantized.decoded import decoded_array
from runtime.quantized.integers import Coded, Grid, floats, integer_array
from runtime.stored import ComputedArray, StoredArray

STATE = "quant_state.bitsandbytes__"
STORAGE = ("U8", "F16", "BF16", "F32")
"""Types under which codes are stored: `bnb_4bit_quant_storage`."""
NESTED = ("nested_absmax", "nested_quant_map")
INT8_MOST = np.float32(127)
HARMLESS = (
    *("_load_in_4bit", "_load_in_8bit", "load_in_4bit", "load_in_8bit"),
    *("bnb_4bit_compute_dtype", "bnb_4bit_quant_storage", "bnb_4bit_quant_type"),
    *("bnb_4bit_use_double_quant", "llm_int8_enable_fp32_cpu_offload", "llm_int8_skip_modules"),
    *("llm_int8_has_fp16_weight", "llm_int8_threshold", "modules_to_not_convert"),
)
"""Each weight says itself how it is stored."""


class BitsAndBytes(msgspec.Struct):
    """quantization_config of bitsandbytes, of which nothing is needed."""


class State(msgspec.Struct):
    """`quant_state` of a weight."""

    shape: tuple[Size, Size]
    blocksize: Size
    nested_blocksize: Size | None = None
    nested_offset: Finite = 0.0


@reads("bitsandbytes")
def bitsandbytes(settings: Settings, arrays: Arrays) -> Readable:
    """The arrays of such a checkpoint. Raises EdgequantError for what is not read."""
    parsed(settings, BitsAndBytes, HARMLESS)
    left, kinds = dict(arrays), set[str]()
    for kind in ("nf4", "fp4"):
        for name in modules(arrays, f"{STATE}{kind}"):
            array = _four_bits(name, left, kind)
            put(left, name, array)
            kinds.add(f"4 bits ({kind})")
    for module in modules(arrays, "SCB"):
        array = _eight_bits(module, left)
        put(left, f"{module}.weight", array)
        kinds.add("8 bits")
    told = [original(f"bitsandbytes of {' and '.join(sorted(kinds))}")]
    if kinds - {"8 bits"}:
        told.append(
            "its weights of 4 bits are decoded to float32: no type of a GGUF or ONNX file has "
            "their values, so that what is written of them is rounded a second time"
        )
    return Readable(left, told)


def _four_bits(name: str, left: Arrays, kind: str) -> ComputedArray:
    """The weight `name` in 4 bits."""
    key = f"{STATE}{kind}"
    state = _state(f"{name}.{key}", left.pop(f"{name}.{key}"))
    size = state.nested_blocksize
    parts = take(left, name, ("absmax", "quant_map", *(NESTED if size else ())))
    module, _, last = name.rpartition(".")
    packed = take(left, module, (last,))[last]
    check(name, packed, packed.shape, STORAGE)
    rows, cols = state.shape
    if packed.nbytes != -(-rows * cols // 2):
        raise CorruptFileError(
            f"{name} has {packed.nbytes:,} bytes, but {-(-rows * cols // 2):,} hold codes of the "
            f"shape {state.shape}; download the checkpoint again."
        )
    blocks = -(-rows * cols // state.blocksize)
    check(f"{name}.quant_map", parts["quant_map"], (16,), ("F32",))
    check(f"{name}.absmax", parts["absmax"], (blocks,), ("U8",) if size else ("F32",))
    if size:
        check(f"{name}.nested_quant_map", parts["nested_quant_map"], (256,), ("F32",))
        check(f"{name}.nested_absmax", parts["nested_absmax"], (-(-blocks // size),), ("F32",))
    arrays = (packed, *parts.values())
    return decoded_array((rows, cols), arrays, partial(_rows, packed, parts, state))


def _state(name: str, array: StoredArray) -> State:
    """The facts of a weight. Raises CorruptFileError for what is not JSON of them."""
    check(name, array, array.shape[:1], ("U8",))
    try:
        return msgspec.json.decode(array.read().tobytes(), type=State)
    except msgspec.DecodeError as error:
        raise CorruptFileError(
            f"{name} is not what it must be ({error}); download the checkpoint again."
        ) from error


def _rows(
    packed: StoredArray, parts: dict[str, StoredArray], state: State, start: int, stop: int
) -> np.ndarray:
    """Rows of the weight, float32."""
    cols = state.shape[1]
    first, last = start * cols, stop * cols
    pairs = packed.read()[first // 2 : -(-last // 2)]
    codes = np.stack([pairs >> 4, pairs & 15], axis=-1).reshape(-1)[first % 2 :][: last - first]
    values = floats(parts["quant_map"])[codes]
    scales = _scales(parts, state)[np.arange(first, last) // state.blocksize]
    return np.asarray((values * scales).reshape(stop - start, cols))


def _scales(parts: dict[str, StoredArray], state: State) -> np.ndarray:
    """The scale of each block, float32 (blocks,)."""
    size = state.nested_blocksize
    if not size:
        return floats(parts["absmax"])
    codes = parts["absmax"].read()
    outer = floats(parts["nested_absmax"])[np.arange(len(codes)) // size]
    return floats(parts["nested_quant_map"])[codes] * outer + np.float32(state.nested_offset)


def _eight_bits(module: str, left: Arrays) -> ComputedArray:
    """The weight of a module in 8 bits."""
    parts = take(left, module, ("weight", "SCB"), ("weight_format",))
    shape = check_matrix(f"{module}.weight", parts["weight"], ("I8",))
    check(f"{module}.SCB", parts["SCB"], shape[:1], ("F32",))
    form = parts.pop("weight_format", None)
    if form is not None:
        check(f"{module}.weight_format", form, form.shape, ("U8",))
    if form is not None and form.read().any():
        raise UnsupportedError(
            f"{module}.weight_format is not 0: its columns were put in another order for a card; "
            "save the model again with a newer bitsandbytes, or give the full-precision checkpoint."
        )
    rows = partial(_eight_bit_rows, parts["weight"], parts["SCB"])
    return integer_array(shape, tuple(parts.values()), Grid(8, shape[1], symmetric=True), rows)


def _eight_bit_rows(weight: StoredArray, scb: StoredArray, start: int, stop: int) -> Coded:
    """Rows of the weight; codes count from -128."""
    codes = weight.read_rows(start, stop) ^ np.uint8(128)
    return Coded(codes, None, (floats(scb)[start:stop] / INT8_MOST)[:, None])
