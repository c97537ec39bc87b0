"""A full-precision checkpoint: a folder with config.json, a tokenizer and safetensors, checked.

Tensors are mapped when they are asked for, and a pickle is never opened.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.archs import Arch, Family, family_of
from runtime.checkpoint_names import FLOATS, fused_experts, unwrapped, with_own_head
from runtime.errors import CorruptFileError, EdgequantError, InputError, UnsupportedError
from runtime.json_files import read_json
from runtime.model import Model
from runtime.reader import Reader
from runtime.safetensors_file import header, read
from runtime.stored import Expected, Parts, StoredArray, StoredTensors
from runtime.tensor import Shape
from runtime.tokenizer import Tokenizer

PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth")
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checked model folder. `tensors` reads from disk on access and keeps nothing."""

    folder: Path
    config: dict[str, Any]
    family: Family
    arch: Arch
    tensors: StoredTensors
    tokenizer: Tokenizer
    notes: tuple[str, ...] = ()
    """What was read otherwise than the files say at first sight, one sentence each."""

    @property
    def name(self) -> str:
        """The model's name for files and reports; of a hub's cache that of the repository."""
        return model_name(self.folder)

    @property
    def facts(self) -> dict[str, Any]:
        """What artifacts say of how it was read: its notes, if any."""
        return {"source_notes": list(self.notes)} if self.notes else {}

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


def model_name(folder: Path) -> str:
    """The name of a model's folder: models--ORG--NAME/snapshots/COMMIT of a hub's cache is NAME."""
    folder = Path(os.path.abspath(folder))
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.rpartition("--")[2]
    return folder.name


def read_checkpoint(folder: Path) -> Checkpoint:
    """Open a folder, once every tensor that its config implies is there with its shape and type.

    Raises EdgequantError in one sentence otherwise.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; give the folder that holds {CONFIG}.")
    _refuse_adapters(folder)
    if not (folder / CONFIG).exists():
        raise InputError(f"{folder} has no {CONFIG}; give the folder of a Hugging Face checkpoint.")
    config = read_json(folder / CONFIG)
    family = family_of(config)
    arch, notes = family.arch(config), family.notes(config)
    quantized = config.get("quantization_config") is not None
    if quantized and not any((folder / name).exists() for name in (WEIGHTS, INDEX)):
        raise _already_quantized(folder)
    arrays, told = _arrays(folder)
    arrays, wrapped = unwrapped(arrays)
    arch, own_head = with_own_head(arch, arrays)
    names = arch.hf_names()
    weights = {name: parts_of(shape, names[name], arrays) for name, shape in arch.shapes().items()}
    _check(folder, weights, arrays, quantized)
    if quantized:
        told += [f"{CONFIG} has a quantization_config, but every tensor is a float: it is ignored"]
    tensors = StoredTensors(weights, arrays)
    tokenizer = Tokenizer.from_folder(folder)
    notes = (*notes, *told, *wrapped, *own_head)
    return Checkpoint(folder, config, family, arch, tensors, tokenizer, notes)


def open_model(folder: Path) -> Model:
    """A folder's model. Raises as `read_checkpoint` does."""
    return read_checkpoint(folder).model()


def parts_of(shape: Shape, hf_name: str, arrays: Mapping[str, StoredArray]) -> Parts:
    """A weight's arrays: one by its name in the checkpoint, one for each {expert} in it, or one
    for all of them, as transformers 5 saves some models."""
    if "{expert}" not in hf_name:
        return Parts(shape, {hf_name: Expected(shape, FLOATS)})
    if found := fused_experts(shape, hf_name, arrays):
        return found
    names = (hf_name.replace("{expert}", str(expert)) for expert in range(shape[0]))
    return Parts(shape, {name: Expected(shape[1:], FLOATS) for name in names})


def _refuse_adapters(folder: Path) -> None:
    """Raise UnsupportedError for a LoRA, alone or beside the model that it changes."""
    if not (folder / ADAPTER).exists():
        return
    if (folder / CONFIG).exists():
        raise UnsupportedError(
            f"{folder} holds an adapter beside its model ({ADAPTER}), which transformers would "
            "apply; merge it with peft's merge_and_unload, or move it elsewhere to leave it out."
        )
    raise UnsupportedError(
        f"{folder} is a LoRA adapter, not a model; merge it into its base with peft's "
        "merge_and_unload, and give the folder of the merged model."
    )


def _arrays(folder: Path) -> tuple[dict[str, StoredArray], list[str]]:
    """Every array by its name, from the single file or the index's shards, and a note.

    Where both are there, the single file counts, as for transformers. Raises EdgequantError for
    missing or cut shards.
    """
    if (folder / WEIGHTS).exists():
        told = f"{WEIGHTS} was read and {INDEX} beside it was not, as transformers does"
        return read(folder / WEIGHTS), [told] if (folder / INDEX).exists() else []
    if not (folder / INDEX).exists():
        raise _no_weights(folder)
    table = read_json(folder / INDEX)["weight_map"]
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
    return {name: held[shard][name] for name, shard in table.items()}, []


def _no_weights(folder: Path) -> EdgequantError:
    """The error of a folder without safetensors."""
    if any((folder / name).exists() for name in PICKLES) or list(folder.glob("*.bin")):
        return UnsupportedError(
            f"{folder} holds pickled weights (.bin), which can run code when opened; convert them "
            "to safetensors with transformers: from_pretrained(...).save_pretrained(...)."
        )
    return CorruptFileError(f"{folder} holds no {WEIGHTS} and no {INDEX}; download the weights.")


def _check(
    folder: Path,
    weights: Mapping[str, Parts],
    arrays: Mapping[str, StoredArray],
    quantized: bool,
) -> None:
    """Every expected array is there, float, with the config's shape; nothing unknown is left."""
    for parts in weights.values():
        if quantized and any(not _is_float(arrays.get(name)) for name in parts.arrays):
            raise _already_quantized(folder)
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


def _already_quantized(folder: Path) -> EdgequantError:
    return UnsupportedError(
        f"{folder} is already quantized; give the full-precision checkpoint it was made from."
    )


def _is_float(array: StoredArray | None) -> bool:
    return array is not None and array.dtype in FLOATS


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
