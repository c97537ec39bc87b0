"""A full-precision checkpoint, opened lazily: tensor by tensor from safetensors, never pickle."""

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from runtime.archs import FAMILIES, Arch, Family, family_of
from runtime.blocks import BLOCKS
from runtime.errors import CorruptFileError, InputError, UnsupportedError
from runtime.model import Model
from runtime.tensor import Tensor
from runtime.tokenizer import Tokenizer, read_json

DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth")
INDEX = "model.safetensors.index.json"


def bundled() -> Path:
    """The checkpoint that comes with the project: the default of the demo and of the tests."""
    return Path(__file__).resolve().parent.parent / "models" / "tiny-qwen2.5"


@dataclass(frozen=True)
class Checkpoint:
    """A checked model folder. `tensors` reads from disk on access and keeps nothing."""

    folder: Path
    config: dict[str, Any]
    family: Family
    arch: Arch
    tensors: "LazyTensors"
    tokenizer: Tokenizer

    @property
    def name(self) -> str:
        """The model's name for files and reports."""
        return self.folder.resolve().name

    def model(self) -> Model:
        """The original, ready for an engine."""
        return Model(self.arch, self.tensors, self.tokenizer)

    def fingerprint(self) -> str:
        """sha256 over config, tokenizer, and each shard's header, size and 256 sampled pages.

        Reading every byte of a 72B model to name it would cost minutes; training changes them all.
        """
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
        digest.update((self.folder / "tokenizer.json").read_bytes())
        for path in sorted(set(self.tensors.files.values())):
            size = path.stat().st_size
            digest.update(f"{path.name} {size}".encode() + _header(path))
            with path.open("rb") as file:
                for page in range(256):
                    file.seek(size * page // 256)
                    digest.update(file.read(4096))
        return digest.hexdigest()


@dataclass(frozen=True)
class LazyTensors(Mapping[str, Tensor]):
    """Runtime name -> Tensor, read from its shard on access."""

    shapes: dict[str, tuple[int, ...]]
    hf_names: dict[str, str]
    files: dict[str, Path] = field(repr=False)
    """HF name -> shard."""

    def __getitem__(self, name: str) -> Tensor:
        hf_name = self.hf_names[name]
        with safe_open(self.files[hf_name], "pt") as shard:
            values = shard.get_tensor(hf_name)
        rows = self.shapes[name][0] if len(self.shapes[name]) == 2 else 1
        raw = values.contiguous().view(torch.uint8).numpy().reshape(rows, -1)
        return Tensor(name, self.shapes[name], BLOCKS[DTYPES[values.dtype]], raw)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def open_checkpoint(source: str | Path | None) -> Checkpoint:
    """Open a local folder, a hub id such as "Qwen/Qwen2.5-0.5B" (extra `hub`), or the bundled one.

    Checks that every tensor the config asks for is there with its shape and a float dtype, before
    any work. Raises EdgequantError in one sentence otherwise.
    """
    folder = Path(source) if source else bundled()
    if not source and not folder.exists():
        raise InputError(
            "the bundled model comes with the repository, not with an installed package; give a "
            "checkpoint folder or a hub id like Qwen/Qwen2.5-0.5B."
        )
    if not folder.exists():
        folder = _from_hub(str(source))
    if not folder.is_dir():
        raise InputError(f"{source} is a file; give the folder that holds config.json.")
    if not (folder / "config.json").exists():
        raise InputError(
            f"{folder} has no config.json; give the folder of a Hugging Face checkpoint."
        )
    config = read_json(folder / "config.json")
    if "quantization_config" in config:
        raise UnsupportedError(
            f"{folder} is already quantized; give the full-precision checkpoint it was made from."
        )
    family = family_of(config)
    arch = family.arch(config)
    files = _shards(folder)
    shapes = family.shapes(arch)
    hf_names = {name: family.hf_name(name) for name in shapes}
    _check(shapes, hf_names, files, folder)
    tensors = LazyTensors(shapes, hf_names, files)
    return Checkpoint(folder, config, family, arch, tensors, Tokenizer.from_folder(folder))


def _from_hub(source: str) -> Path:
    """Download (or find in the cache, offline) a hub repository's safetensors and small files."""
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise InputError(
            f"{source} does not exist; give a checkpoint folder or a hub id like Qwen/Qwen2.5-0.5B."
        )
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise UnsupportedError(
            f"{source} is not a folder, and hub downloads need: pip install 'edgequant[hub]'."
        ) from None
    patterns = [
        "*.safetensors",
        "*.safetensors.index.json",
        "*.json",
        "*.jinja",
        "*.md",
        "tokenizer.model",
    ]
    try:
        return Path(snapshot_download(source, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{source} cannot be had from the hub nor from its cache ({reason}); "
            "check the name and the connection, or give a local folder."
        ) from error


def _shards(folder: Path) -> dict[str, Path]:
    """HF tensor name -> file, by the index or the single file. Raises for missing or cut shards."""
    single = folder / "model.safetensors"
    if (folder / INDEX).exists():
        table: dict[str, str] = read_json(folder / INDEX).get("weight_map", {})
        files = {name: folder / shard for name, shard in table.items()}
        missing = sorted({path.name for path in files.values() if not path.exists()})
        if missing:
            raise CorruptFileError(
                f"{folder} misses {len(missing)} of {len(set(table.values()))} shards "
                f"({missing[0]}{', ...' if missing[1:] else ''}); download them again."
            )
    elif single.exists():
        files = {name: single for name in _names(single)}
    else:
        _refuse_other_weights(folder)
    for path in set(files.values()):
        held = _names(path)
        for name in (n for n, p in files.items() if p == path):
            if name not in held:
                raise CorruptFileError(
                    f"{path} does not hold {name}, which {INDEX} promises; download it again."
                )
    return files


def _refuse_other_weights(folder: Path) -> None:
    if any((folder / name).exists() for name in PICKLES) or list(folder.glob("*.bin")):
        raise UnsupportedError(
            f"{folder} holds pickled weights (.bin), which can run code when opened; convert them "
            "to safetensors with transformers: from_pretrained(...).save_pretrained(...)."
        )
    raise CorruptFileError(
        f"{folder} holds no model.safetensors and no {INDEX}; download the weights."
    )


def _names(path: Path) -> set[str]:
    """Tensor names of a shard; a cut or damaged one is an error."""
    try:
        with safe_open(path, "pt") as shard:
            return set(shard.keys())
    except (SafetensorError, OSError, RuntimeError) as error:
        raise CorruptFileError(
            f"{path} is cut short or damaged ({error}); download it again."
        ) from error


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return file.read(length)


def _check(
    shapes: dict[str, tuple[int, ...]],
    hf_names: dict[str, str],
    files: dict[str, Path],
    folder: Path,
) -> None:
    """Every expected tensor is there, float, with the config's shape; nothing unknown is left."""
    by_shard: dict[Path, list[str]] = {}
    for name, hf_name in hf_names.items():
        if hf_name not in files:
            raise CorruptFileError(
                f"{folder} has no tensor {hf_name}, which config.json implies; check "
                "num_hidden_layers, tie_word_embeddings and that all shards are there."
            )
        by_shard.setdefault(files[hf_name], []).append(name)
    for path, names in by_shard.items():
        with safe_open(path, "pt") as shard:
            for name in names:
                _check_tensor(shard.get_slice(hf_names[name]), hf_names[name], shapes[name])
    extra = [name for name in files if name not in set(hf_names.values()) and not _ignorable(name)]
    if extra:
        raise UnsupportedError(
            f"{folder} holds {len(extra)} tensors this architecture does not know ({extra[0]}); "
            "leaving them out would change the model."
        )


def _ignorable(name: str) -> bool:
    """Buffers that some exporters save, and the copy of a tied head."""
    return (
        name.endswith(("rotary_emb.inv_freq", ".attn.bias", ".masked_bias"))
        or name == "lm_head.weight"
    )


def _check_tensor(view: Any, name: str, shape: tuple[int, ...]) -> None:
    if tuple(view.get_shape()) != shape:
        raise CorruptFileError(
            f"{name} has shape {tuple(view.get_shape())}, config.json implies {shape}; "
            "take the config.json that came with the weights."
        )
    if view.get_dtype() not in ("F32", "F16", "BF16"):
        raise UnsupportedError(
            f"{name} is {view.get_dtype()}, not F32, F16 or BF16; give a full-precision checkpoint."
        )


def check_finite(tensor: Tensor, values: np.ndarray | torch.Tensor) -> None:
    """Raise EdgequantError naming the tensor and how many of its values are NaN or infinite."""
    flat = torch.as_tensor(values)
    if not torch.isfinite(flat.sum()):
        bad = int((~torch.isfinite(flat)).sum())
        if bad:
            raise CorruptFileError(
                f"{tensor.name} holds {bad} NaN or infinite values of {flat.numel()}; "
                "the checkpoint is damaged: download it again."
            )


def random_checkpoint(folder: Path, config: dict[str, Any], tokenizer: Path, seed: int = 0) -> None:
    """Write a checkpoint of random weights with a real model's shapes, for tests and benchmarks.

    `config` is a config.json; `tokenizer` a folder whose tokenizer files are copied. Weights are
    bf16 with standard deviation 0.02 like a fresh initialisation, norms near 1, one shard a layer.
    """
    from safetensors.torch import save_file

    family = family_of(config)
    arch = family.arch(config)
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    shards: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in family.shapes(arch).items():
        key = name.split(".")[1] if name.startswith("blk.") else name.split(".")[0]
        shards.setdefault(f"model-{key}.safetensors", {})[name] = shape
    table = {}
    for shard, names in shards.items():
        values = {}
        for name, shape in names.items():
            noise = torch.randn(shape, generator=generator) * 0.02
            values[family.hf_name(name)] = (noise + ("norm" in name)).bfloat16()
            table[family.hf_name(name)] = shard
        save_file(values, folder / shard, metadata={"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": table}))
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if (tokenizer / name).exists():
            (folder / name).write_bytes((tokenizer / name).read_bytes())


__all__ = [
    "FAMILIES",
    "Checkpoint",
    "LazyTensors",
    "bundled",
    "check_finite",
    "open_checkpoint",
    "random_checkpoint",
]
