"""Releases made small, and run in the engine of each container: docs/models.md says what comes out.

The small ones have as many heads a key-value head, and widths that 2, 4, ... 256 divide as they
divide the true ones: that decides which types fit.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch

import edgequant
from runtime.archs.heads import STEP
from runtime.errors import EdgequantError
from tests.one_file_models import make, weights
from tests.releases import RELEASES, Release
from tests.vision_models import OLDER_TOWER, TOWER, vision_model

BLOCK = 256
"""The longest block of a quantization type."""
MOST_WIDTH = 512
KEY_BIAS = 900.0
"""Norm of the key biases in Qwen2.5, nearly all of it in the channels that rope hardly turns."""
SURE = 4.0
"""Factor on routers: one that nearly ties is decided by the last bit."""
WIDE = 1024
"""Of that hidden size, or with experts, one layer is enough, for time's sake."""
WINDOW = 24
LENGTHS = (
    "rope_theta",
    "max_position_embeddings",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "num_hidden_layers",
    "moe_intermediate_size",
    "vision_config",
)
"""Numbers that do not decide what is computed."""
WIDTHS = ("moe_intermediate_size", "shared_expert_intermediate_size")
TARGETS = {"gguf": ("gguf:F32", "gguf:Q4_K_M"), "onnx": ("onnx:fp32", "onnx:int4")}
"""Container -> the file without quantization, and the usual one."""


def small_config(release: Release) -> dict[str, Any]:
    """config.json of the small one."""
    heads, head_dim = small_heads(release)
    width = release.heads * release.head_dim
    hidden = heads * head_dim if width == release.hidden else small_width(release.hidden)
    facts = {k: small_width(v, BLOCK) if k in WIDTHS else v for k, v in release.facts.items()}
    experts = "num_experts" in facts
    facts |= {
        "hidden_size": hidden,
        "intermediate_size": small_width(release.ffn),
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads * release.kv_heads // release.heads),
        "num_hidden_layers": release.layers if hidden < WIDE and not experts else 1,
        "tie_word_embeddings": release.tied,
    }
    if heads * head_dim != hidden or "head_dim" in facts:
        facts["head_dim"] = head_dim
    if facts.get("sliding_window"):
        facts["sliding_window"] = WINDOW
    if tables := facts.get("rope_scaling", {}).get("short_factor") and facts["rope_scaling"]:
        pairs = int(head_dim * facts.get("partial_rotary_factor", 1)) // 2
        cut = {key: tables[key][:pairs] for key in ("short_factor", "long_factor")}
        facts["rope_scaling"] = tables | cut
    if "query_pre_attn_scalar" in facts:
        facts["query_pre_attn_scalar"] = head_dim
    if sections := facts.get("rope_scaling", {}).get("mrope_section"):
        small = [part * head_dim // release.head_dim for part in sections]
        small[0] = head_dim // 2 - sum(small[1:])
        facts["rope_scaling"] = facts["rope_scaling"] | {"mrope_section": small}
    if facts["model_type"] == "qwen2_5_vl":
        facts["vision_config"] = TOWER | {"out_hidden_size": hidden}
    if facts["model_type"] == "qwen2_vl":
        facts["vision_config"] = OLDER_TOWER | {"hidden_size": hidden}
    return facts


def alike() -> list[list[Release]]:
    """Releases by what decides how they are computed and stored, the least of each first."""
    groups: dict[str, list[Release]] = {}
    for release in RELEASES:
        config = small_config(release)
        blocks = [math.gcd(config[key], BLOCK) for key in ("hidden_size", "intermediate_size")]
        facts = {key: value for key, value in config.items() if key not in LENGTHS}
        facts["own_width"] = release.heads * release.head_dim != release.hidden
        groups.setdefault(json.dumps([blocks, facts], sort_keys=True), []).append(release)
    return [sorted(g, key=lambda one: small_config(one)["hidden_size"]) for g in groups.values()]


def small_heads(release: Release) -> tuple[int, int]:
    """Heads and their width: the least of both whose product has the blocks of the true one."""
    if "num_experts" in release.facts and release.heads % 8:
        return 8, 32  # those of Qwen2-57B-A14B would be seven times as wide, with 64 experts
    common = math.gcd(release.heads, release.kv_heads)
    wanted = math.gcd(release.heads * release.head_dim, BLOCK)
    fitting = [
        (release.heads // several, head_dim)
        for several in range(1, common + 1)
        for head_dim in (16, 32, 64, 128)
        if common % several == 0
        and head_dim <= release.head_dim
        and math.gcd(release.heads // several * head_dim, BLOCK) == wanted
    ]
    return min(fitting, key=lambda pair: (pair[0] * pair[1], pair[0]))


def small_width(width: int, most: int = MOST_WIDTH) -> int:
    """The greatest width up to `most` that blocks divide as they divide this one."""
    step = math.gcd(width, BLOCK)
    times = most // step
    return min(width, step * (times if step == BLOCK else times - 1 + times % 2))


def make_small(release: Release, folder: Path) -> Path:
    """The checkpoint, its weights such that activations keep their size."""
    config = small_config(release)
    if "vision_config" in config:
        vision_model(folder, config)
    else:
        make(folder, **config)
    if release.scores:
        path = folder / "tokenizer.json"
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
        tokenizer.add_special_tokens([tokenizers.AddedToken(STEP, special=True)])
        tokenizer.save(str(path))
    head_dim = small_heads(release)[1]
    weights(folder, lambda values: _real(values, head_dim))
    return folder


def _real(values: dict[str, torch.Tensor], head_dim: int) -> None:
    """Scale the weights in place: matrices by their inputs, key biases as in Qwen2.5."""
    for name, value in values.items():
        if name.startswith("visual."):
            continue
        if name.endswith("k_proj.bias"):
            heads = value.reshape(-1, 2, head_dim // 2)  # channels turn in pairs
            heads[..., -1] *= KEY_BIAS / heads[..., -1].norm()
        elif value.ndim > 1:
            sure = SURE if name.endswith(("mlp.gate.weight", "shared_expert_gate.weight")) else 1
            values[name] = value / value.std() * sure / value.shape[-1] ** 0.5
        elif "norm" in name and value.mean() > 1:
            values[name] = value / value.mean()


@dataclass(frozen=True)
class Cell:
    """What becomes of a release in one container, in the target engine."""

    refused: str = ""
    """The sentence."""
    floats: float = 0.0
    """Of the file without quantization: KL from transformers, nats a token; of a model that scores
    texts the largest deviation of a score, in standard deviations of the scores."""
    rounded: float = 0.0
    """Of the quantized file: the same, or of scores 1 less their rank correlation."""
    scores: bool = False

    def __str__(self) -> str:
        if self.refused:
            return f"refused: {self.refused}"
        if self.scores:
            return f"scores off by {magnitude(self.floats)}; rank {1 - self.rounded:.2f}"
        return f"{magnitude(self.floats)}; {self.rounded:.2g}"


def magnitude(value: float) -> str:
    """A bound that machines agree on."""
    return next(f"< 1e-{n}" for n in range(7, -9, -1) if value < 10.0**-n)


def measure(release: Release, container: str, folder: Path) -> Cell:
    """Make the small one in a folder, write both files, and run them in the target engine."""
    source = make_small(release, folder / "model")
    settings: dict[str, Any] = {"output": folder / "out", "effort": "low", "rows": 2, "length": 64}
    try:
        made = edgequant.quantize(source, TARGETS[container], check=False, **settings)
    except EdgequantError as error:
        assert not list((folder / "out").glob("*"))
        return Cell(refused=str(error))
    found = edgequant.check(
        [artifact.path for artifact in made.artifacts],
        source,
        backend="llamacpp",
        reference=None if release.scores == "no class" else "transformers",
        eval_rows=16 if release.scores else 1,
        eval_length=release.length if container == "gguf" else 64,
    )
    floats, rounded = (result.metrics for result in found.results)
    if release.scores:
        return Cell("", floats.deviation / floats.spread, 1 - rounded.rank, scores=True)
    return Cell("", floats.kl, rounded.kl)
