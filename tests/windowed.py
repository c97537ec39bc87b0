"""Models of every family with sliding windows: tiny configurations, and checkpoints of them."""

from pathlib import Path
from typing import Any

from quantize.checkpoint import bundled
from runtime.archs import family_of
from tests.conftest import SIZES
from tests.random_checkpoint import random_checkpoint

SLIDING, FULL = "sliding_attention", "full_attention"
SHAPE = SIZES | {
    "num_hidden_layers": 4,
    "max_position_embeddings": 1024,
    "rope_theta": 1e4,
    "initializer_range": 0.02,
    "pad_token_id": 4093,
    "tie_word_embeddings": False,
}
QWEN = {"use_sliding_window": True, "sliding_window": 8}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
}

WINDOWED: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "qwen2": ({"model_type": "qwen2", **QWEN, "max_window_layers": 1}, (1, 2, 3)),
    "qwen2, layer_types": (
        {"model_type": "qwen2", **QWEN, "layer_types": [SLIDING, FULL, SLIDING, FULL]},
        (0, 2),
    ),
    "qwen3": (
        {"model_type": "qwen3", **QWEN, "max_window_layers": 2, "head_dim": 32},
        (2, 3),
    ),
    "mistral": ({"model_type": "mistral", "sliding_window": 8}, (0, 1, 2, 3)),
    "mistral, layer_types": (
        {
            "model_type": "mistral",
            "sliding_window": 8,
            "head_dim": 32,
            "layer_types": [FULL, SLIDING, SLIDING, FULL],
        },
        (1, 2),
    ),
    "smollm3": (
        {"model_type": "smollm3", **QWEN},
        (3,),
    ),
    "smollm3, layer_types": (
        {"model_type": "smollm3", "sliding_window": 8, "layer_types": [SLIDING, FULL] * 2},
        (0, 2),
    ),
    "qwen2_moe": (
        {
            "model_type": "qwen2_moe",
            **QWEN,
            **EXPERTS,
            "norm_topk_prob": False,
            "max_window_layers": 3,
            "shared_expert_intermediate_size": 64,
        },
        (0, 2),
    ),
    "qwen3_moe": (
        {"model_type": "qwen3_moe", **QWEN, **EXPERTS, "head_dim": 32},
        (0, 1, 2, 3),
    ),
}
"""What tells the models apart, and the layers with a window of 8 tokens."""


def facts_of(name: str, **changes: Any) -> dict[str, Any]:
    """A complete config.json of one of WINDOWED."""
    facts = SHAPE | WINDOWED[name][0] | changes
    return facts | {"architectures": [family_of(facts).hf_class], "torch_dtype": "bfloat16"}


def checkpoint_of(name: str, folder: Path, **changes: Any) -> Path:
    """A checkpoint of one of WINDOWED with random weights."""
    random_checkpoint(folder, facts_of(name, **changes), bundled())
    return folder
