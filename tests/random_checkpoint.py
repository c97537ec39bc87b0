"""Checkpoints of random weights, for tests and benchmarks (bench/memory.py)."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from runtime.archs import family_of
from runtime.checkpoint import INDEX

AT_ONCE = 1 << 26
"""Weights that are drawn at a time."""


def random_checkpoint(folder: Path, config: dict[str, Any], tokenizer: Path, seed: int = 0) -> None:
    """Write a checkpoint of random weights with a real model's shapes.

    `config` is a config.json; `tokenizer` a folder whose tokenizer files are copied. Weights are
    bf16 with standard deviation 0.02 like a fresh initialisation, norms near 1, one shard a layer.
    """
    family = family_of(config)
    arch = family.arch(config)
    hf_names, norms, fused = arch.hf_names(), arch.norms(), arch.hf_rows()
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    shards: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in arch.shapes().items():
        key = name.split(".")[1] if name.startswith("blk.") else name.split(".")[0]
        shards.setdefault(f"model-{key}.safetensors", {})[name] = shape
    table: dict[str, str] = {}
    for shard, names in shards.items():
        values: dict[str, torch.Tensor] = {}
        for name, shape in names.items():
            middle = 1.0 - norms[name].offset if name in norms else 0.0
            weight = torch.empty(shape, dtype=torch.bfloat16)
            # float32 of a large table would take several times its room
            for rows in weight.split(max(1, AT_ONCE * len(weight) // weight.numel())):
                rows.copy_(torch.randn(rows.shape, generator=generator) * 0.02 + middle)
            add_arrays(values, hf_names[name], weight, joined=name in fused)
        table |= dict.fromkeys(values, shard)
        save_file(values, folder / shard, metadata={"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": table}))
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if (tokenizer / name).exists():
            (folder / name).write_bytes((tokenizer / name).read_bytes())


def add_arrays(
    values: dict[str, torch.Tensor], hf_name: str, weight: torch.Tensor, joined: bool
) -> None:
    """Put a weight among the arrays of a checkpoint; a `joined` one below those of its array that
    are there."""
    if joined and hf_name in values:
        weight = torch.cat([values[hf_name], weight])
    values |= arrays_of(hf_name, weight)


def arrays_of(hf_name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """A weight as a checkpoint names it: whole, or an array for each {expert}."""
    if "{expert}" not in hf_name:
        return {hf_name: weight}
    return {hf_name.replace("{expert}", str(at)): part for at, part in enumerate(weight)}
