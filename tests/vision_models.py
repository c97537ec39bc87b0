"""Small random models that read images, and the forms in which checkpoints hold them."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from runtime.vision.tower import tower_of
from tests.one_file_models import edit, make, weights

TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
IMAGE = 4098
"""The third of them: the bundled tokenizer has 4,096 tokens of its own."""

HEADS: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
    "max_position_embeddings": 512,
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    "vision_start_token_id": 4096,
    "vision_end_token_id": 4097,
    "image_token_id": 4098,
    "video_token_id": 4099,
}
TOWER: dict[str, Any] = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_heads": 2,
    "out_hidden_size": 64,
    "window_size": 112,
    "fullatt_block_indexes": [1],
    "hidden_act": "silu",
}
OLDER_TOWER: dict[str, Any] = {
    "depth": 2,
    "embed_dim": 32,
    "hidden_size": 64,
    "mlp_ratio": 2,
    "num_heads": 2,
    "hidden_act": "quick_gelu",
}
QWEN25 = HEADS | {
    "model_type": "qwen2_5_vl",
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "vision_config": TOWER,
}
QWEN2 = HEADS | {
    "model_type": "qwen2_vl",
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "vision_config": OLDER_TOWER,
}
MODELS = {"qwen2.5": QWEN25, "qwen2": QWEN2}
TEXT = {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}
TEXT |= {"num_key_value_heads", "rope_theta", "rope_scaling", "vocab_size", "rms_norm_eps"}
TEXT |= {"max_position_embeddings", "hidden_act", "eos_token_id", "tie_word_embeddings"}


def vision_model(folder: Path, config: dict[str, Any], seed: int = 0) -> Path:
    """A checkpoint with the names and the flat config.json of the releases."""
    make(folder, seed, **config)
    generator = torch.Generator().manual_seed(seed)
    tower = tower_of(config)
    assert tower

    def add(values: dict[str, torch.Tensor]) -> None:
        for name, shape in tower.shapes().items():
            noise = torch.randn(shape, generator=generator) * 0.1
            is_norm = "norm" in name or "ln_q" in name
            values[f"visual.{name}"] = (noise + (is_norm and name.endswith("weight"))).bfloat16()

    weights(folder, add)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(list(TOKENS))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def renamed(folder: Path, language: str, vision: str, head: bool = True) -> None:
    """Other prefixes in place of "model." and "visual."."""

    def change(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        out = {}
        for name, value in values.items():
            start, _, rest = name.partition(".")
            new = {"model": f"{language}{rest}", "visual": f"{vision}{rest}"}.get(start, name)
            if head or name != "lm_head.weight":
                out[new] = value
        return out

    weights(folder, change)


def nested(folder: Path, **outer: Any) -> None:
    """The language model's settings in a text_config, as transformers 5 writes them."""
    config = json.loads((folder / "config.json").read_text())
    inner = {key: config[key] for key in TEXT & config.keys()}
    inner["rope_parameters"] = inner.pop("rope_scaling") | {"rope_theta": inner.pop("rope_theta")}
    edit(folder, "config.json", **dict.fromkeys(TEXT, ...), text_config=inner, **outer)
