"""The tensors that a checkpoint must hold, put together from its arrays once each was checked."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from runtime.archs import Arch
from runtime.archs.heads import SCORE
from runtime.checkpoint_names import FLOATS, misplaced
from runtime.errors import CorruptFileError, EdgequantError, UnsupportedError
from runtime.merged import Unchanged, merged
from runtime.quant_types import QUANT_TYPES
from runtime.quantized import METHODS
from runtime.stored import ComputedArray, Expected, Parts, StoredArray, StoredTensors, rows_of
from runtime.tensor import Shape, Tensor


def checked_tensors(
    folder: Path, arch: Arch, arrays: Mapping[str, StoredArray], quantized: str | None
) -> StoredTensors:
    """The tensors of these sizes, once all are there.

    `quantized`: how config.json says that they were rounded. Raises EdgequantError as
    `_check` does.
    """
    if arch.layers > len(arrays):
        raise misplaced(arrays) or CorruptFileError(
            f"config.json has num_hidden_layers {arch.layers}, but {folder} holds "
            f"{len(arrays)} tensors; take the config.json that came with the weights."
        )
    norms = arch.norms()
    weights = weights_of(arch, arrays)
    for name, norm in norms.items():
        if norm.offset:
            weights[name] = replace(weights[name], join=partial(_shifted, norm.offset))
    _check(folder, weights, arrays, quantized)
    return StoredTensors(weights, arrays)


def weights_of(arch: Arch, arrays: Mapping[str, StoredArray]) -> dict[str, Parts]:
    """The arrays of every weight."""
    names, rows = arch.hf_names(), arch.hf_rows()
    return {
        name: fused_rows(shape, names[name], *rows[name])
        if name in rows
        else parts_of(shape, names[name], arrays)
        for name, shape in arch.shapes().items()
    }


def fused_rows(shape: Shape, hf_name: str, first: int, total: int) -> Parts:
    """A weight (out, in) that is rows `first` and on of an array (total, in)."""

    def rows(name: str, shape: Shape, found: list[StoredArray]) -> Tensor:
        (array,) = found
        data = array.read_rows(first, first + shape[0])
        return Tensor(name, shape, QUANT_TYPES[array.dtype], data, order=array.order())

    return Parts(shape, {hf_name: Expected((total, shape[1]), FLOATS)}, rows)


def parts_of(shape: Shape, hf_name: str, arrays: Mapping[str, StoredArray]) -> Parts:
    """A weight's arrays: one by its name in the checkpoint, one for each {expert} in it, or one
    for all of them, as transformers 5 saves some models."""
    if "{expert}" not in hf_name:
        return Parts(shape, {hf_name: Expected(shape, FLOATS)})
    if found := fused_experts(shape, hf_name, arrays):
        return found
    # config.json alone says how many: none is listed before the last one is found
    first = 0 if hf_name.replace("{expert}", str(shape[0] - 1)) in arrays else shape[0] - 1
    names = (hf_name.replace("{expert}", str(expert)) for expert in range(first, shape[0]))
    return Parts(shape, {name: Expected(shape[1:], FLOATS) for name in names})


def in_one_type(arch: Arch, arrays: Mapping[str, StoredArray]) -> dict[str, StoredArray]:
    """The arrays of a model that is computed: experts of one weight are all F32 where they have
    several types, or each its columns in an order of its own."""
    found = dict(arrays)
    for parts in weights_of(arch, arrays).values():
        own = [part for part in parts.arrays if part in arrays]
        types = {arrays[part].dtype for part in own}
        ordered = len(own) > 1 and any(t in QUANT_TYPES and QUANT_TYPES[t].ordered for t in types)
        if len(types) > 1 or ordered:
            others = (part for part in own if arrays[part].dtype != "F32")
            found |= {part: merged(arrays[part], Unchanged()) for part in others}
    return found


def _shifted(offset: float, name: str, shape: Shape, arrays: list[StoredArray]) -> Tensor:
    """A norm's weight, float32, of which the checkpoint stores what it is above `offset`."""
    return Tensor.dense(name, rows_of(name, shape, arrays).decode() + np.float32(offset))


def fused_experts(shape: Shape, hf_name: str, arrays: Mapping[str, StoredArray]) -> Parts | None:
    """A weight (experts, out, in) in the arrays of all experts that transformers 5 writes:
    `gate_up_proj` (experts, 2 x inner, in), the gate's rows first, and `down_proj`. None where they
    are not there."""
    start, _, last = hf_name.partition("{expert}.")
    part = last.removesuffix("_proj.weight")
    name = f"{start}{'down' if part == 'down' else 'gate_up'}_proj"
    if name not in arrays:
        return None
    if part == "down":
        return Parts(shape, {name: Expected(shape, FLOATS)}, places=(0, shape[1]))
    experts, inner, inputs = shape
    first = 0 if part == "gate" else inner

    def half(name: str, shape: Shape, found: list[StoredArray]) -> Tensor:
        (array,) = found
        rows = array.read().reshape(experts, 2 * inner, -1)[:, first : first + inner]
        data = np.ascontiguousarray(rows).reshape(experts * inner, -1)
        return Tensor(name, shape, QUANT_TYPES[array.dtype], data)

    whole = Expected((experts, 2 * inner, inputs), FLOATS)
    return Parts(shape, {name: whole}, half, places=(first, 2 * inner))


def _check(
    folder: Path,
    weights: Mapping[str, Parts],
    arrays: Mapping[str, StoredArray],
    quantized: str | None,
) -> None:
    """Every expected array is there, float, with the config's shape; nothing unknown is left."""
    for parts in weights.values():
        if quantized and any(not _is_float(arrays.get(name)) for name in parts.arrays):
            raise already_quantized(folder, quantized)
        for name, expected in parts.arrays.items():
            if name not in arrays:
                raise misplaced(arrays) or CorruptFileError(
                    f"{folder} has no tensor {name}, which config.json implies; check "
                    "num_hidden_layers, tie_word_embeddings and that all shards are there."
                )
            _check_array(name, arrays[name], expected)
        _check_types(parts, arrays)
    known = {name for parts in weights.values() for name in parts.arrays}
    extra = [name for name in arrays if name not in known and not _ignorable(name)]
    if scores := [name for name in extra if name.startswith(SCORE)]:
        raise UnsupportedError(
            f"{folder} holds a head that scores texts ({scores[0]}), but architectures in "
            "config.json names no model with it; write its class there, such as "
            "Qwen2ForSequenceClassification or Qwen2ForRewardModel."
        )
    if twice := [name for name in extra if _again(name, known)]:
        raise CorruptFileError(
            f"{folder} holds {len(twice)} tensors twice, also under a prefix ({twice[0]}); delete "
            "those that are not the model's, and save it again."
        )
    if extra:
        raise UnsupportedError(
            f"{folder} holds {len(extra)} tensors this architecture does not know ({extra[0]}); "
            "leaving them out would change the model."
        )


def _again(name: str, known: Collection[str]) -> bool:
    """Whether a name is a known one under another prefix."""
    inner = name.replace("model.language_model.", "model.", 1)
    return inner in known or any(name.endswith(f".{own}") for own in known)


def already_quantized(folder: Path, how: str) -> EdgequantError:
    """The error of rounded weights; `how` names the method."""
    return UnsupportedError(
        f"{folder} is already quantized ({how}), which is not read, only "
        f"{', '.join(sorted(METHODS))}; give the full-precision checkpoint it was made from."
    )


def _is_float(array: StoredArray | None) -> bool:
    return array is not None and array.dtype in FLOATS


def _check_array(name: str, found: StoredArray, expected: Expected) -> None:
    if found.shape != expected.shape:
        raise CorruptFileError(
            f"{name} has shape {found.shape}, config.json implies {expected.shape}; "
            "take the config.json that came with the weights."
        )
    if found.dtype not in expected.dtypes and not isinstance(found, ComputedArray):
        raise UnsupportedError(
            f"{name} is {found.dtype}, not F32, F16 or BF16; give a full-precision checkpoint."
        )


def _check_types(parts: Parts, arrays: Mapping[str, StoredArray]) -> None:
    """Arrays that are put together have one type."""
    first, *others = parts.arrays
    for name in others:
        if arrays[name].dtype != arrays[first].dtype:
            raise UnsupportedError(
                f"{name} is {arrays[name].dtype}, but {first} is {arrays[first].dtype}; "
                "save the checkpoint with one type for all experts."
            )


def _ignorable(name: str) -> bool:
    """Buffers that some exporters save, and the copy of a tied head."""
    return (
        name.endswith(("rotary_emb.inv_freq", ".attn.bias", ".masked_bias"))
        or name == "lm_head.weight"
    )
