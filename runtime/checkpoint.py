"""A full-precision checkpoint: a folder with config.json, a tokenizer and safetensors, checked.

Tensors are mapped when they are asked for, and a pickle is never opened.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runtime import generation_config, pooling
from runtime.adapter import Adapter, read_adapter, refuse_adapter
from runtime.adapter_files import SmallFiles, small_files, tokenizer_folder
from runtime.archs import Arch, Family, family_of
from runtime.checkpoint_names import refuse_without, unused_head, unwrapped, with_own_head
from runtime.checkpoint_tensors import already_quantized, checked_tensors, in_one_type
from runtime.config_file import config_notes, language_config
from runtime.errors import CorruptFileError
from runtime.json_files import read_json
from runtime.links import check_inside, check_links, check_name
from runtime.merging import merge_all, refuse_beside
from runtime.model import Model
from runtime.quantized import beside_notes, is_read, read_quantized, settings_of
from runtime.reader import Reader
from runtime.safetensors_file import header, read
from runtime.sources import (
    CONFIG,
    INDEX,
    WEIGHTS,
    no_weights,
    quantized_as,
    refuse_other_kinds,
    unread,
)
from runtime.stored import ComputedArray, StoredArray, StoredTensors
from runtime.tokenizer import Tokenizer
from runtime.tokenizer_class import replaced_rules

IGNORED = f"{CONFIG} has a quantization_config, but every tensor is a float: it is ignored"


@dataclass(frozen=True)
class Checkpoint:
    """A checked model. `tensors` reads from disk on access and keeps nothing."""

    folder: Path
    """Or the file, where a single one is the source (gguf_source.py)."""
    config: dict[str, Any]
    family: Family
    arch: Arch
    tensors: StoredTensors
    tokenizer: Tokenizer
    notes: tuple[str, ...] = ()
    """What was read otherwise than the files say at first sight, one sentence each."""
    adapters: tuple[Adapter, ...] = ()
    """Those that were merged, in their order; `tensors` has their changes."""
    beside: Mapping[str, StoredArray] = field(default_factory=dict)
    """Arrays of other parts of the model, such as a vision tower, by their names within it."""
    merged_files: SmallFiles | None = None
    """Config and tokenizer of a merged model where they are not those of `folder`."""

    @property
    def name(self) -> str:
        """The model's name for files and reports; of a hub's cache that of the repository."""
        own = model_name(self.folder)
        if self.folder.is_file():  # NAME.gguf, or NAME-00001-of-00003.gguf
            own = PART.sub("", self.folder.stem)
        return "-".join([own, *(adapter.name for adapter in self.adapters)])

    @property
    def files(self) -> Path:
        """The folder with config.json and the tokenizer of this model."""
        return self.merged_files.path if self.merged_files else self.folder

    @property
    def facts(self) -> dict[str, Any]:
        """What artifacts say of how it was read: its notes and adapters, if any."""
        facts: dict[str, Any] = {"source_notes": list(self.notes)} if self.notes else {}
        if self.adapters:
            facts["base"] = model_name(self.folder)
            facts["adapters"] = [adapter.facts for adapter in self.adapters]
        return facts

    @property
    def shards(self) -> list[Path]:
        """The files with weights, by name."""
        arrays = self.tensors.arrays.values()
        return sorted({part.file.path for array in arrays for part in array.sources})

    @property
    def nbytes(self) -> int:
        """Bytes of the files with weights."""
        return sum(shard.stat().st_size for shard in self.shards)

    @property
    def computed_bytes(self) -> int:
        """Bytes of memory for what adapters change and what is unpacked: it lies in no file."""
        arrays = self.tensors.arrays.values()
        return sum(array.nbytes for array in arrays if isinstance(array, ComputedArray))

    @property
    def is_packed(self) -> bool:
        """Whether it was quantized, and codes of it stay packed."""
        return not all(self.tensors.qtype(name).is_float for name in self.tensors)

    def model(self) -> Model:
        """The original, ready for an engine."""
        return Model(self.arch, self.tensors, self.tokenizer)

    def fingerprint(self) -> str:
        """sha256 over config, tokenizer, adapters, each shard's header, size and 256 sampled pages.

        Reading every byte of a 72B model to name it would cost minutes; training changes them all.
        """
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
        digest.update((self.files / "tokenizer.json").read_bytes())
        for adapter in self.adapters:
            digest.update(adapter.sha256.encode())
        for path in self.shards:
            size = path.stat().st_size
            digest.update(f"{path.name} {size}".encode())
            if not self.folder.is_file():  # the header of a GGUF is its config and tokenizer
                digest.update(header(path))
            with path.open("rb") as file:
                for page in range(256):
                    file.seek(size * page // 256)
                    digest.update(file.read(4096))
        return digest.hexdigest()


PART = re.compile(r"-\d{5}-of-\d{5}$")
"""How the name of one of several files of a model ends."""


def model_name(path: Path) -> str:
    """The name of a file or folder: models--ORG--NAME/snapshots/COMMIT of a hub's cache is NAME."""
    path = Path(os.path.abspath(path))
    found = hub_id(path) if path.parent.name == "snapshots" else None
    return found.rpartition("/")[2] if found else path.name


def hub_id(path: Path) -> str | None:
    """ORG/NAME of what lies in a hub's cache, models--ORG--NAME/snapshots/COMMIT; None elsewhere.

    Links are not followed.
    """
    commits = (place for place in (path, *path.parents) if place.parent.name == "snapshots")
    for commit in commits:
        repository = commit.parent.parent.name
        if repository.startswith("models--"):
            return repository.removeprefix("models--").replace("--", "/")
    return None


def read_checkpoint(folder: Path, adapters: Sequence[Path] = ()) -> Checkpoint:
    """Open a folder, once every tensor that its config implies is there with its shape and type.

    `adapters`: folders of LoRA adapters, merged in this order. Raises EdgequantError in one
    sentence for what is not there or cannot be.
    """
    for path in (folder, *adapters):
        check_name(path)
    if folder not in adapters:
        refuse_adapter(folder)
    check_links(folder)
    refuse_other_kinds(folder)
    stored = read_json(folder / CONFIG)
    config = language_config(stored)
    family = family_of(config)
    arch = family.arch(config)
    arrays, told, quantized = _stored(folder, config)
    named = unwrapped(arrays, family.hf_beside)
    refuse_without("vision", config, named)
    arch, own_head = with_own_head(arch, named.language)
    language = named.language
    if any(isinstance(array, ComputedArray) for array in language.values()):
        language = in_one_type(arch, language)
    tensors = checked_tensors(folder, arch, language, quantized)
    if quantized:
        told += [IGNORED]
    notes = (*config_notes(stored), *family.notes(config), *told, *unread(folder), *named.notes)
    notes = (
        *notes,
        *own_head,
        *unused_head(arch, named.language),
        *pooling.notes(folder),
        *generation_config.notes(folder),
    )
    tokenizer = Tokenizer.from_folder(folder)
    found = Checkpoint(folder, config, family, arch, tensors, tokenizer, notes, beside=named.beside)
    if adapters:
        found = _with_adapters(found, [read_adapter(path, model_name(path)) for path in adapters])
    rules = replaced_rules(found.files, config, found.tokenizer)
    return replace(found, notes=(*found.notes, *found.tokenizer.notes(), *rules))


def _with_adapters(base: Checkpoint, adapters: list[Adapter]) -> Checkpoint:
    """The base with adapters merged, and their tokenizer where they bring one."""
    refuse_beside(adapters, base.family.hf_beside)
    arrays, config, told = merge_all(adapters, base.tensors.arrays, base.config, base.arch.tied)
    arch = replace(base.family.arch(config), tied=base.arch.tied)
    arch, own_head = with_own_head(arch, arrays)
    named = [note for adapter in adapters for note in adapter.notes(model_name(base.folder))]
    place, from_adapter = tokenizer_folder(base.folder, adapters)
    files = None
    if place != base.folder or config != base.config:
        files = small_files(base.folder, place, config)
    return replace(
        base,
        config=config,
        arch=arch,
        tensors=checked_tensors(base.folder, arch, in_one_type(arch, arrays), None),
        tokenizer=Tokenizer.from_folder(files.path) if files else base.tokenizer,
        notes=(*base.notes, *named, *told, *own_head, *from_adapter),
        adapters=tuple(adapters),
        merged_files=files,
    )


def open_model(folder: Path) -> Model:
    """A folder's model. Raises as `read_checkpoint` does."""
    return read_checkpoint(folder).model()


def _stored(
    folder: Path, config: dict[str, Any]
) -> tuple[dict[str, StoredArray], list[str], str | None]:
    """Every array by its plain name, notes, and the method where it was quantized and is not read.

    Raises EdgequantError as `_arrays` and `read_quantized` do.
    """
    settings = settings_of(folder, config)
    quantized = quantized_as(config, settings)
    if settings is None or not is_read(settings):
        if quantized and not any((folder / name).exists() for name in (WEIGHTS, INDEX)):
            raise already_quantized(folder, quantized)
        return *_arrays(folder), quantized
    arrays, told = _arrays(folder)
    readable = read_quantized(settings, arrays)
    if readable is None:
        return arrays, [*told, IGNORED], None
    return readable.arrays, [*told, *readable.notes, *beside_notes(folder, config)], None


def _arrays(folder: Path) -> tuple[dict[str, StoredArray], list[str]]:
    """Every array by its name, from the single file or the index's shards, and a note.

    Where both are there, the single file counts, as for transformers. Raises EdgequantError for
    missing or cut shards.
    """
    if (folder / WEIGHTS).exists():
        told = f"{WEIGHTS} was read and {INDEX} beside it was not, as transformers does"
        return read(folder / WEIGHTS), [told] if (folder / INDEX).exists() else []
    if not (folder / INDEX).exists():
        raise no_weights(folder)
    table = read_json(folder / INDEX)["weight_map"]
    shards = sorted(set(table.values()))
    for shard in shards:
        check_inside(folder, INDEX, shard)
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


READER = Reader("checkpoint", "a checkpoint folder", open_model, sign=CONFIG)
