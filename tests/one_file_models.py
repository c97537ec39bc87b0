"""Random models in one file, and what people do to such folders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from quantize.checkpoint import bundled
from tests.random_checkpoint import random_checkpoint

SIZES: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 4160,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 128,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "rope_theta": 1e4,
    "eos_token_id": 4093,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def make(folder: Path, seed: int = 0, **config: Any) -> Path:
    """A random model in one file."""
    random_checkpoint(folder, SIZES | config, bundled(), seed)
    values: dict[str, torch.Tensor] = {}
    for shard in sorted(folder.glob("model-*.safetensors")):
        values |= {name: value * 3 for name, value in load_file(shard).items()}
        shard.unlink()
    (folder / INDEX).unlink()
    save_file(values, folder / SINGLE, metadata={"format": "pt"})
    return folder


def weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change the file's tensors."""
    values = load_file(folder / SINGLE)
    changed = change(values)
    save_file(changed or values, folder / SINGLE, metadata={"format": "pt"})


def edit(folder: Path, file: str, **values: Any) -> None:
    """Change keys of a JSON file; ... takes one away."""
    path = folder / file
    found = (json.loads(path.read_text()) if path.exists() else {}) | values
    path.write_text(json.dumps({key: value for key, value in found.items() if value is not ...}))


def own_head(folder: Path) -> None:
    weights(folder, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].flip(0)}))


def copied_head(folder: Path) -> None:
    weights(folder, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone()}))


def stale_index(folder: Path) -> None:
    old = {name: value.flip(0) for name, value in load_file(folder / SINGLE).items()}
    save_file(old, folder / "model-00001-of-00001.safetensors", metadata={"format": "pt"})
    index_of_nothing(folder)


def index_of_nothing(folder: Path) -> None:
    table = dict.fromkeys(load_file(folder / SINGLE), "model-00001-of-00001.safetensors")
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": table}))


def with_config(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder, "config.json", **values)
