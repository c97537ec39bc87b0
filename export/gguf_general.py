"""What a GGUF file says of itself: what it is, and how it was made."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_VERSION, LlamaFileType, PoolingType
from gguf.utility import size_label

from runtime import generation_config
from runtime.archs import FAMILIES, Arch
from runtime.checkpoint import model_name
from runtime.gguf_parts import read_parts
from runtime.json_files import read_json
from runtime.pooling import pooling

PROVENANCE = "edgequant."
"""What our own metadata keys start with."""
HASHES = f"{PROVENANCE}sha256."
LLAMACPP = "quantize."
"""What llama.cpp's keys about a quantization start with; such extras keep their names."""


def general(arch: Arch, source: Path, extra: dict[str, Any]) -> dict[str, Any]:
    """Metadata that says what the file is, and how it was made."""
    shapes = arch.shapes()
    parameters = sum(math.prod(shape) for shape in shapes.values())
    keys: dict[str, Any] = {
        "general.type": "model",
        "general.name": _label(str(extra.get("model") or model_name(source))),
        "general.size_label": size_label(parameters, parameters, 0, 0),
        "general.quantization_version": GGML_QUANT_VERSION,
    }
    if license_name := _license(source):
        keys["general.license"] = license_name
    keys |= _sampling(source) | _pooling(arch, source)
    if (preset := str(extra.get("preset"))) in FILE_TYPES:
        keys["general.file_type"] = FILE_TYPES[preset]
    keys |= {
        f"{PROVENANCE}{key}": value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for key, value in extra.items()
        if not key.startswith(LLAMACPP)
    }
    return keys | {key: value for key, value in extra.items() if key.startswith(LLAMACPP)}


def _pooling(arch: Arch, source: Path) -> dict[str, int]:
    """How llama.cpp makes one vector of a text, where the source says it in a way that it knows."""
    kinds = {"mean": PoolingType.MEAN, "cls": PoolingType.CLS, "last": PoolingType.LAST}
    found = kinds.get(pooling(source) or "")
    return (
        {} if found is None else {f"{FAMILIES[arch.family].architecture}.pooling_type": int(found)}
    )


def _sampling(source: Path) -> dict[str, Any]:
    """What llama.cpp draws tokens with where its user says nothing, as transformers would.

    Nothing for a model that is not said to be sampled: llama.cpp then has its own settings.
    """
    asked = generation_config.sampling(source)
    if not asked["do_sample"]:
        return {}
    keys = {
        "temp": float(asked["temperature"]),
        "top_k": asked["top_k"],
        "top_p": float(asked["top_p"]),
        "min_p": float(asked["min_p"]),
        "penalty_repeat": float(asked["repetition_penalty"]),
    }
    if keys["penalty_repeat"] != 1:
        keys["penalty_last_n"] = -1  # transformers looks at all tokens, llama.cpp at the last 64
    return {f"general.sampling.{key}": value for key, value in keys.items()}


OTHER_MODELS = re.compile("(phi)-?(3)|(modern)-(bert)", re.IGNORECASE)
"""Names by which llama.cpp knows a tokenizer of other rules, whatever the architecture."""


def _label(name: str) -> str:
    """A model's name, with a space in the names of others: "phi-3" becomes "phi 3"."""
    return OTHER_MODELS.sub(lambda found: " ".join(filter(None, found.groups())), name)


FILE_TYPES = {kind.name.partition("_")[2]: int(kind) for kind in LlamaFileType}
"""Preset name, such as "Q4_K_M" or "F32" -> the number that readers show as the file's type."""


def _license(source: Path) -> str | None:
    """The licence that config.json or the head of the README names."""
    if found := read_json(source / "config.json").get("license"):
        return str(found)
    readme = source / "README.md"
    if not readme.exists():
        return None
    before, _, rest = readme.read_text(encoding="utf-8", errors="replace").partition("---")
    if before.strip():
        return None
    for line in rest.partition("\n---")[0].splitlines():
        key, colon, value = line.partition(":")
        if colon and key == "license" and value.strip():
            return value.strip().strip("'\"")
    return None


def provenance(path: Path) -> dict[str, Any]:
    """What the tool that made a file wrote into it: its own keys and general ones, not hashes."""
    ours = (PROVENANCE, LLAMACPP, "general.")
    metadata = read_parts(path)[0].metadata
    kept = (key for key in metadata if key.startswith(ours) and not key.startswith(HASHES))
    return {key: _plain(metadata[key]) for key in kept}


def maker(path: Path) -> str | None:
    """The tool that wrote a file's types, where the file says so.

    "other" for a file of ours that another one quantized again: llama.cpp's quantizer, which leaves
    no name, keeps every key, ours too, and puts its own file type in. So a file is ours only while
    the file type is that of our preset.
    """
    metadata = read_parts(path)[0].metadata
    ours = any(key.startswith(PROVENANCE) for key in metadata)
    preset = str(metadata.get(f"{PROVENANCE}preset"))
    if ours and metadata.get("general.file_type") == FILE_TYPES.get(preset):
        return "edgequant"
    if named := metadata.get("general.quantized_by"):
        return str(named)
    return "other" if ours else None


def _plain(value: Any) -> Any:
    """A metadata value as JSON can hold it."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
