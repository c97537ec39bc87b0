"""Write a vision tower as the GGUF file that llama.cpp takes beside the language model's.

As llama.cpp's clip.cpp reads it: three matrices in place of one for queries, keys and values, and
two kernels in place of one for the two pictures of a patch. Norms and biases are F32.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from export.clipping import clipped
from export.files import new_file
from export.gguf import write_file
from export.gguf_general import FILE_TYPES
from runtime.errors import InputError, UnsupportedError
from runtime.quant_types import QUANT_TYPES, QuantType
from runtime.tensor import Shape, Tensor, is_matrix, rows_and_cols
from runtime.vision.image import Preparation
from runtime.vision.tower import EPS, Tower

TYPES = ("F32", "F16", "Q8_0")
WINDOW = 112
"""Pixels of a window's side in llama.cpp, whatever a file says."""
PIXELS = 560
"""Side of an image that readers get ready for; any other size runs as well."""

BLOCK = {
    "norm1": "ln1",
    "norm2": "ln2",
    "attn.proj": "attn_out",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}
"""Part of a block in a checkpoint -> its name in GGUF."""
OUTSIDE = {"merger.ln_q": "v.post_ln", "merger.mlp.0": "mm.0", "merger.mlp.2": "mm.2"}
QKV = ("attn_q", "attn_k", "attn_v")
PATCHES = ("v.patch_embd.weight", "v.patch_embd.weight.1")


def write(
    path: Path,
    tower: Tower,
    tensors: Mapping[str, Tensor],
    preparation: Preparation,
    kind: str,
    extra: dict[str, Any],
    *,
    overwrite: bool = False,
) -> list[str]:
    """Write the file `path`, linears in a type of TYPES.

    Returns what became another type or was clipped, as sentences.
    `extra` becomes further metadata. Raises EdgequantError for a tower that llama.cpp would compute
    otherwise, for another type, and as `new_file` does.
    """
    if kind not in TYPES:
        raise InputError(f"a vision tower is not stored as {kind!r}; choose {', '.join(TYPES)}.")
    refuse_unlike(tower)
    told, inner = [], widened(tower.ffn, kind)
    if inner != tower.ffn:
        told.append(
            f"the tower's MLPs are {inner} wide in place of {tower.ffn}, with channels of zeros, "
            f"so that {kind}'s blocks divide their rows"
        )
    wide = replace(tower, ffn=inner)
    shapes = file_shapes(wide)
    types = {name: stored_type(name, shape, kind) for name, shape in shapes.items()}
    metadata = {**extra, **keys(wide, preparation), "general.file_type": FILE_TYPES[kind]}
    values = file_values(tower, wide, tensors)
    with new_file(Path(path), overwrite) as temp:
        write_file(
            temp,
            "clip",
            metadata,
            shapes,
            (packed(name, array, types[name], told) for name, array in values),
        )
    return told + fallbacks(types, shapes, kind)


def refuse_unlike(tower: Tower) -> None:
    """Raise UnsupportedError for what llama.cpp would compute otherwise than the tower."""
    wrong, distance = None, every(tower)
    if tower.merge != 2 or tower.temporal != 2:
        wrong = f"spatial_merge_size {tower.merge} and temporal_patch_size {tower.temporal}, not 2"
    elif tower.window not in (0, WINDOW):
        wrong = f"window_size {tower.window}, and llama.cpp's windows have {WINDOW} pixels"
    elif tower.window and set(tower.full) != set(range(distance - 1, tower.depth, distance)):
        wrong = (
            f"fullatt_block_indexes {list(tower.full)}, and llama.cpp has such blocks at equal "
            "distances alone"
        )
    if wrong:
        raise UnsupportedError(
            f"vision_config has {wrong}; the tower runs in transformers and here alone."
        )


def every(tower: Tower) -> int:
    """One block in so many, the last of them, sees the whole image."""
    return tower.full[0] + 1 if tower.full else tower.depth + 1


def keys(tower: Tower, preparation: Preparation) -> dict[str, Any]:
    """GGUF metadata of a tower."""
    vision: dict[str, Any] = {
        "image_size": PIXELS,
        "patch_size": tower.patch,
        "embedding_length": tower.width,
        "feed_forward_length": tower.ffn,
        "block_count": tower.depth,
        "projection_dim": tower.outputs,
        "attention.head_count": tower.heads,
        "attention.layer_norm_epsilon": EPS,
        "image_mean": list(preparation.mean),
        "image_std": list(preparation.std),
        "spatial_merge_size": tower.merge,
    }
    own: dict[str, Any] = {}
    if tower.modern:
        own = {"clip.use_silu": True, "clip.vision.n_wa_pattern": every(tower)}
    return {
        "general.type": "mmproj",
        "clip.has_vision_encoder": True,
        "clip.projector_type": "qwen2.5vl_merger" if tower.modern else "qwen2vl_merger",
        **{f"clip.vision.{key}": value for key, value in vision.items()},
        **own,
    }


def file_shapes(tower: Tower) -> dict[str, Shape]:
    """Every tensor of the file: name -> shape."""
    out: dict[str, Shape] = {}
    for name, shape in tower.shapes().items():
        parts = names(name)
        if parts == PATCHES:
            out |= dict.fromkeys(parts, (shape[0], shape[1], *shape[3:]))
        else:
            out |= dict.fromkeys(parts, (shape[0] // len(parts), *shape[1:]))
    return out


def names(name: str) -> tuple[str, ...]:
    """The file's names of a checkpoint's tensor."""
    stem, _, kind = name.rpartition(".")
    if stem == "patch_embed.proj":
        return PATCHES
    if stem in OUTSIDE:
        return (f"{OUTSIDE[stem]}.{kind}",)
    _, index, part = stem.split(".", 2)
    inner = QKV if part == "attn.qkv" else (BLOCK[part],)
    return tuple(f"v.blk.{index}.{one}.{kind}" for one in inner)


def widened(inner: int, kind: str) -> int:
    """Channels of an MLP with those of zeros that a type's blocks need; they change nothing."""
    size = QUANT_TYPES[kind].size
    return -(-inner // size) * size


def file_values(
    tower: Tower, wide: Tower, tensors: Mapping[str, Tensor]
) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of the file with its float32 values, one of the checkpoint at a time."""
    for name, values in padded(tower, wide, tensors):
        parts = names(name)
        if parts == PATCHES:
            yield from zip(parts, np.moveaxis(values, 2, 0), strict=True)
        else:
            yield from zip(parts, np.split(values, len(parts)), strict=True)


def padded(
    tower: Tower, wide: Tower, tensors: Mapping[str, Tensor]
) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of a tower with its float32 values in the sizes of `wide`, padded with zeros."""
    for (name, shape), full in zip(tower.shapes().items(), wide.shapes().values(), strict=True):
        missing = [(0, more - there) for more, there in zip(full, shape, strict=True)]
        yield name, np.pad(tensors[name].decode().reshape(shape), missing)


def stored_type(name: str, shape: Shape, kind: str) -> QuantType:
    """The type of a tensor: F16 where Q8_0 does not divide its rows, or it is a convolution."""
    if not is_matrix(shape):
        return QUANT_TYPES["F32"]
    fits = len(shape) == 2 and QUANT_TYPES[kind].fits(shape[-1])
    return QUANT_TYPES[kind if fits or kind != "Q8_0" else "F16"]


def packed(name: str, values: np.ndarray, qtype: QuantType, told: list[str]) -> Tensor:
    """float32 values of any shape in a type, rounded to nearest; `told` gets what was clipped."""
    values = np.ascontiguousarray(values)
    rows = values.reshape(rows_and_cols(values.shape))
    out = Tensor(name, values.shape, qtype, qtype.pack(*qtype.quantize(rows)))
    note = clipped(Tensor.dense(name, values), out, "--type F32 holds them")
    told += [note] if note else []
    return out


def fallbacks(types: Mapping[str, QuantType], shapes: Mapping[str, Shape], kind: str) -> list[str]:
    """A sentence for each part whose rows blocks do not divide."""
    parts: dict[str, list[str]] = {}
    for name, qtype in types.items():
        if len(shapes[name]) == 2 and qtype.name != kind:
            parts.setdefault(name.split(".")[-2], []).append(name)
    return [
        f"{part} is {types[of[0]].name} in {len(of)} tensors: its rows of {shapes[of[0]][-1]} are "
        f"not divided by {kind}'s blocks of {QUANT_TYPES[kind].size}"
        for part, of in parts.items()
    ]
