"""A full-precision checkpoint: a folder with config.json, a tokenizer and safetensors, checked.

Tensors are mapped when they are asked for, and a pickle is never opened.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.archs import Arch, Family, family_of
from runtime.errors import CorruptFileError, EdgequantError, InputError, UnsupportedError
from runtime.model import Model
from runtime.reader import Reader
from runtime.safetensors_file import header, read
from runtime.stored import Expected, Parts, StoredArray, StoredTensors
from runtime.tensor import Shape
from runtime.tokenizer import Tokenizer, read_json

FLOATS = ("F32", "F16", "BF16")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth")
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checked model folder. `tensors` reads from disk on access and keeps nothing."""

    folder: Path
    config: dict[str, Any]
    family: Family
    arch: Arch
    tensors: StoredTensors
    tokenizer: Tokenizer

    @property
    def name(self) -> str:
        """The model's name for files and reports."""
        return self.folder.resolve().name

    @property
    def shards(self) -> list[Path]:
        """The files with weights, by name."""
        return sorted({array.file.path for array in self.tensors.arrays.values()})

    @property
    def nbytes(self) -> int:
        """Bytes of the files with weights."""
        return sum(shard.stat().st_size for shard in self.shards)

    def model(self) -> Model:
        """The original, ready for an engine."""
        return Model(self.arch, self.tensors, self.tokenizer)

    def fingerprint(self) -> str:
        """sha256 over config, tokenizer, and each shard's header, size and 256 sampled pages.

        Reading every byte of a 72B model to name it would cost minutes; training changes them all.
        """
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
        digest.update((self.folder / "tokenizer.json").read_bytes())
        for path in self.shards:
            size = path.stat().st_size
            digest.update(f"{path.name} {size}".encode() + header(path))
            with path.open("rb") as file:
                for page in range(256):
                    file.seek(size * page // 256)
                    digest.update(file.read(4096))
        return digest.hexdigest()


def read_checkpoint(folder: Path) -> Checkpoint:
    """Open a folder, once every tensor that its config implies is there with its shape and type.

    Raises EdgequantError in one sentence otherwise.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; give the folder that holds {CONFIG}.")
    if not (folder / CONFIG).exists():
        raise InputError(f"{folder} has no {CONFIG}; give the folder of a Hugging Face checkpoint.")
    config = read_json(folder / CONFIG)
    if "quantization_config" in config:
        raise UnsupportedError(
            f"{folder} is already quantized; give the full-precision checkpoint it was made from."
        )
    family = family_of(config)
    arch = family.arch(config)
    arrays = _arrays(folder)
    names = arch.hf_names()
    weights = {name: parts_of(shape, names[name]) for name, shape in arch.shapes().items()}
    _check(folder, weights, arrays)
    tensors = StoredTensors(weights, arrays)
    return Checkpoint(folder, config, family, arch, tensors, Tokenizer.from_folder(folder))


def open_model(folder: Path) -> Model:
    """A folder's model. Raises as `read_checkpoint` does."""
    return read_checkpoint(folder).model()


def parts_of(shape: Shape, hf_name: str) -> Parts:
    """A weight's arrays: one by its name in the checkpoint, or one for each {expert} in it."""
    if "{expert}" not in hf_name:
        return Parts(shape, {hf_name: Expected(shape, FLOATS)})
    names = (hf_name.replace("{expert}", str(expert)) for expert in range(shape[0]))
    return Parts(shape, {name: Expected(shape[1:], FLOATS) for name in names})


def _arrays(folder: Path) -> dict[str, StoredArray]:
    """Every array by its name, from the index's shards or the single file.

    Raises EdgequantError for missing or cut shards.
    """
    if not (folder / INDEX).exists():
        if not (folder / WEIGHTS).exists():
            raise _no_weights(folder)
        return read(folder / WEIGHTS)
    table = read_json(folder / INDEX).get("weight_map")
    if not isinstance(table, dict) or not all(isinstance(shard, str) for shard in table.values()):
        raise CorruptFileError(
            f"{folder / INDEX} has no weight_map from tensors to shards; download it again."
        )
    shards = sorted(set(table.values()))
    missing = [shard for shard in shards if not (folder / shard).exists()]
    if missing:
        raise CorruptFileError(
            f"{folder} is missing {len(missing)} of {len(shards)} shards "
            f"({missing[0]}{', ...' if missing[1:] else ''}); download them again."
        )
    held = {shard: read(folder / shard) for shard in shards}
    for name, shard in table.items():
        if name not in held[shard]:
            raise CorruptFileError(
                f"{folder / shard} does not hold {name}, which {INDEX} promises; download it again."
            )
    return {name: held[shard][name] for name, shard in table.items()}


def _no_weights(folder: Path) -> EdgequantError:
    """The error of a folder without safetensors."""
    if any((folder / name).exists() for name in PICKLES) or list(folder.glob("*.bin")):
        return UnsupportedError(
            f"{folder} holds pickled weights (.bin), which can run code when opened; convert them "
            "to safetensors with transformers: from_pretrained(...).save_pretrained(...)."
        )
    return CorruptFileError(f"{folder} holds no {WEIGHTS} and no {INDEX}; download the weights.")


def _check(folder: Path, weights: Mapping[str, Parts], arrays: Mapping[str, StoredArray]) -> None:
    """Every expected array is there, float, with the config's shape; nothing unknown is left."""
    for parts in weights.values():
        for name, expected in parts.arrays.items():
            if name not in arrays:
                raise CorruptFileError(
                    f"{folder} has no tensor {name}, which config.json implies; check "
                    "num_hidden_layers, tie_word_embeddings and that all shards are there."
                )
            _check_array(name, arrays[name], expected)
        _check_types(parts, arrays)
    known = {name for parts in weights.values() for name in parts.arrays}
    extra = [name for name in arrays if name not in known and not _ignorable(name)]
    if extra:
        raise UnsupportedError(
            f"{folder} holds {len(extra)} tensors this architecture does not know ({extra[0]}); "
            "leaving them out would change the model."
        )


def _check_array(name: str, found: StoredArray, expected: Expected) -> None:
    if found.shape != expected.shape:
        raise CorruptFileError(
            f"{name} has shape {found.shape}, config.json implies {expected.shape}; "
            "take the config.json that came with the weights."
        )
    if found.dtype not in expected.dtypes:
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


READER = Reader("checkpoint", "a checkpoint folder", open_model, sign=CONFIG)
