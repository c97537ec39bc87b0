"""compressed-tensors, as llm-compressor, vLLM's tools and others store it.

For a linear X of (out, in) weights with codes of b bits:

    pack-quantized   X.weight_packed      int32 (out, in b / 32): code + 2^(b-1), densely packed,
                                          the lowest bits first; up to version 0.17 each word holds
                                          32 // b codes and the rest of it nothing
                     X.weight_zero_point  int32 (out b / 32, groups): zero + 2^(b-1), packed along
                                          `out` in the same way; asymmetric weights only
                     X.weight_shape       int64 (2,): out, in
                     X.weight_g_idx       int32 (in,): group of each column; act-order only
    int-quantized    X.weight             int8 (out, in)
                     X.weight_zero_point  int8, as the scales; asymmetric weights only
    float-quantized  X.weight             F8_E4M3 (out, in)
    (floats of 4 bits: compressed_fp4.py)
    all of them      X.weight_scale       float: one number, (out, 1), (out, groups), or one for
                                          each block, the last ones cut short

weight = (code - zero) * scale. Widths are rounded up. No setting tells the two ways of packing
apart: the width does, of 3, 5, 6 and 7 bits.
"""

from functools import partial

import numpy as np

from runtime.errors import CorruptFileError, UnsupportedError
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
    scale_block,
    take,
)
from runtime.quantized.compressed_fp4 import fp4, is_fp4
from runtime.quantized.compressed_groups import (
    HARMLESS,
    Compressed,
    Group,
    Weights,
    group_of,
    refuse,
)
from runtime.quantized.decoded import scaled_bytes
from runtime.quantized.integers import (
    FLOATS,
    Coded,
    Grid,
    dense_fields,
    floats,
    group_order,
    integer_array,
    integers,
    padded_fields,
    scattered_notes,
)
from runtime.stored import ComputedArray, StoredArray
from runtime.tensor import Shape

FORMATS = (
    *("pack-quantized", "int-quantized", "float-quantized", "naive-quantized"),
    *("nvfp4-pack-quantized", "mxfp4-pack-quantized"),
)
NAMES = {"int": "integers", "float": "floats"}


@reads("compressed-tensors")
def compressed_tensors(settings: Settings, arrays: Arrays) -> Readable:
    """The arrays of a compressed checkpoint. Raises EdgequantError for what is not read."""
    found = parsed(settings, Compressed, HARMLESS)
    refuse(found)
    left = dict(arrays)
    used: list[Group] = []
    for module in modules(left, "weight_scale"):
        group = group_of(found.config_groups, module)
        weights = _weights(found, group, module)
        packed = fp4 if is_fp4(weights) else _packed
        read = packed if f"{module}.weight_packed" in left else _unpacked
        weight = read(module, left, weights)
        put(left, f"{module}.weight", weight)
        used += [group] if group not in used else []
    told = [original(_what(used)), *scattered_notes(left), *_rounded_inputs(used)]
    return Readable(left, told)


def _weights(found: Compressed, group: Group, module: str) -> Weights:
    """How a module's weights are quantized. Raises UnsupportedError for a format not read."""
    named = group.format or found.format
    if named not in (*FORMATS, "mixed-precision", None):
        raise UnsupportedError(
            f"compressed-tensors of the format {named} ({module}) is not read, only "
            f"{', '.join(FORMATS)}; give the full-precision checkpoint."
        )
    if group.weights is None:
        raise UnsupportedError(
            f"config_groups says nothing of the weights of {module}, which are quantized; take "
            "the config.json that came with the weights."
        )
    return group.weights


def _what(used: list[Group]) -> str:
    """The kinds of weights there are."""
    kinds = []
    for group in used:
        weights = group.weights or Weights()
        size = f"groups of {weights.group_size}" if weights.way == "group" else weights.way
        kinds.append(f"{NAMES[weights.type]} of {weights.num_bits} bits, a scale by {size}")
    return f"compressed-tensors ({'; '.join(dict.fromkeys(kinds))})"


def _rounded_inputs(used: list[Group]) -> list[str]:
    """A note where activations are rounded as well when the checkpoint runs elsewhere."""
    if not any(group.input_activations for group in used):
        return []
    return ["its activations are rounded as well where others run it; here they stay in floats"]


def _packed(module: str, left: Arrays, weights: Weights) -> ComputedArray:
    """A weight of pack-quantized."""
    needed = ["weight_packed", "weight_scale", "weight_shape"]
    needed += [] if weights.symmetric else ["weight_zero_point"]
    needed += ["weight_g_idx"] if weights.scattered else []
    parts = take(left, module, needed, [] if weights.scattered else ["weight_g_idx"])
    bits = weights.num_bits
    if weights.type != "int" or not 1 < bits <= 8:
        raise UnsupportedError(
            f"{module}.weight_packed of {bits} bits ({weights.type}) is not read, only integers of "
            "2 to 8 bits; give the full-precision checkpoint."
        )
    check(f"{module}.weight_shape", parts["weight_shape"], (2,), ("I64", "I32"))
    outputs, inputs = (int(size) for size in integers(parts["weight_shape"]))
    dense = _is_dense(module, parts["weight_packed"], (outputs, inputs), bits)
    group, groups = _groups(module, parts["weight_scale"], (outputs, inputs), weights)
    zeros = parts.get("weight_zero_point")
    if zeros is not None:
        words = _words(outputs, bits, dense)
        check(f"{module}.weight_zero_point", zeros, (words, groups), ("I32",))
    order = group_order(f"{module}.weight_g_idx", parts.get("weight_g_idx"), inputs, group)
    half = parts["weight_scale"].dtype == "F16"
    grid = Grid(bits, group, weights.symmetric, half, order)
    unpack = dense_fields if dense else padded_fields
    rows = partial(_packed_rows, parts["weight_packed"], zeros, parts["weight_scale"])
    rows = partial(rows, partial(unpack, bits=bits), (outputs, inputs))
    return integer_array((outputs, inputs), tuple(parts.values()), grid, rows)


def _words(count: int, bits: int, dense: bool) -> int:
    """Words that so many codes take."""
    return -(-count * bits // 32) if dense else -(-count // (32 // bits))


def _is_dense(module: str, packed: StoredArray, shape: Shape, bits: int) -> bool:
    """Whether codes go on in the next word. Raises CorruptFileError where neither width fits."""
    outputs, inputs = shape
    name = f"{module}.weight_packed"
    check_matrix(name, packed, ("I32",))
    fits = [packed.shape == (outputs, _words(inputs, bits, dense)) for dense in (True, False)]
    if not any(fits):
        check(name, packed, (outputs, _words(inputs, bits, True)), ("I32",))
    if all(fits) and 32 % bits:
        raise CorruptFileError(
            f"{name} has {packed.shape[1]} words a row, as {inputs} codes of {bits} bits take in "
            "either way of packing; save the checkpoint again with compressed-tensors 0.18 in a "
            "width of whole words, or give the full-precision checkpoint."
        )
    return fits[0]


def _groups(
    module: str, scale: StoredArray, shape: tuple[int, int], weights: Weights
) -> tuple[int, int]:
    """Columns that share a scale, and how many times that is."""
    outputs, inputs = shape
    name = f"{module}.weight_scale"
    if weights.way == "group":
        group = weights.group_size or 0
        if group < 1:
            raise UnsupportedError(f"{name} in groups of {group} is not read; correct group_size.")
        groups = -(-inputs // group)
        check(name, scale, (outputs, groups), FLOATS)
        return group, groups
    if weights.way not in ("channel", "tensor"):
        raise UnsupportedError(
            f"{name} by {weights.way} is not read for integers; give the full-precision checkpoint."
        )
    scale_block(name, scale, shape, None, FLOATS)
    return inputs, 1


def _scales(scale: StoredArray, outputs: int, start: int, stop: int) -> np.ndarray:
    """Scales of rows start..stop, float32 (rows, groups); a single one is for all."""
    found = floats(scale)
    if found.size == 1:
        return np.full((stop - start, 1), found.reshape(-1)[0], np.float32)
    return found.reshape(outputs, -1)[start:stop]


def _packed_rows(
    packed: StoredArray,
    zeros: StoredArray | None,
    scale: StoredArray,
    unpack: partial[np.ndarray],
    shape: Shape,
    start: int,
    stop: int,
) -> Coded:
    """Rows of the weight."""
    outputs, inputs = shape
    codes = unpack(integers(packed)[start:stop])[:, :inputs]
    scales = _scales(scale, outputs, start, stop)
    if zeros is None:
        return Coded(codes, None, scales)
    every = unpack(np.ascontiguousarray(integers(zeros).T))  # (groups, out)
    return Coded(codes, every[:, start:stop].T, scales)


def _unpacked(module: str, left: Arrays, weights: Weights) -> ComputedArray:
    """A weight of int-quantized or float-quantized."""
    needed = ("weight", "weight_scale", *(() if weights.symmetric else ("weight_zero_point",)))
    parts = take(left, module, needed)
    weight, scale = parts["weight"], parts["weight_scale"]
    if weights.num_bits != 8:
        raise UnsupportedError(
            f"{module}.weight of {weights.num_bits} bits that are not packed is not read; give the "
            "full-precision checkpoint."
        )
    if weights.type == "float":
        shape = check_matrix(f"{module}.weight", weight, ("F8_E4M3",))
        block = {"block": weights.block_structure, "group": (1, weights.group_size or 1)}
        size = scale_block(f"{module}.weight_scale", scale, shape, block.get(weights.way), FLOATS)
        return scaled_bytes(weight, scale, size)
    shape = check_matrix(f"{module}.weight", weight, ("I8",))
    group, groups = _groups(module, scale, shape, weights)
    zeros = parts.get("weight_zero_point")
    if zeros is not None:
        check(f"{module}.weight_zero_point", zeros, scale.shape, ("I8",))
    grid = Grid(8, group, weights.symmetric, scale.dtype == "F16")
    rows = partial(_int8_rows, weight, zeros, scale)
    return integer_array(shape, tuple(parts.values()), grid, rows)


def _int8_rows(
    weight: StoredArray, zeros: StoredArray | None, scale: StoredArray, start: int, stop: int
) -> Coded:
    """Rows of the weight; codes count from -128."""
    outputs = weight.shape[0]
    codes = weight.read_rows(start, stop) ^ np.uint8(128)
    scales = _scales(scale, outputs, start, stop)
    if zeros is None:
        return Coded(codes, None, scales)
    every = (zeros.read() ^ np.uint8(128)).reshape(scale.shape)
    each = np.full((outputs, 1), every.reshape(-1)[0]) if every.size == 1 else every
    return Coded(codes, each.reshape(outputs, -1)[start:stop], scales)
