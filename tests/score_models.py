"""Random models that score texts: reward models and classifiers, in one file each."""

from pathlib import Path
from typing import Any

import tokenizers
import torch

from runtime.archs.heads import STEP
from tests.conftest import CONFIGS
from tests.one_file_models import make, weights

KINDS: dict[str, tuple[str, str, int]] = {
    "qwen2": ("qwen2-tied", "Qwen2ForSequenceClassification", 1),
    "qwen2-labels": ("qwen2-untied", "Qwen2ForSequenceClassification", 3),
    "qwen3": ("qwen3", "Qwen3ForSequenceClassification", 1),
    "llama": ("llama-untied", "LlamaForSequenceClassification", 2),
    "mistral": ("mistral", "MistralForSequenceClassification", 1),
    "gemma3": ("gemma3", "Gemma3TextForSequenceClassification", 1),
    "math-rm": ("qwen2-untied", "Qwen2ForRewardModel", 1),
    "math-prm": ("qwen2-untied", "Qwen2ForProcessRewardModel", 2),
}
"""Name -> one of CONFIGS, the class in `architectures`, and its labels."""
PAD = 4093
BIAS_NORM = 900.0
"""Of a key bias of Qwen2.5-7B's first layer."""


def make_scorer(folder: Path, kind: str, **changes: Any) -> Path:
    """A model of one of KINDS, whose tokenizer knows the marker of steps."""
    name, named, labels = KINDS[kind]
    facts = {"num_hidden_layers": 2, "hidden_size": 64, "pad_token_id": PAD}
    facts |= {"sliding_window": 8} if kind == "mistral" else {}
    facts |= {"id2label": {str(label): f"LABEL_{label}" for label in range(labels)}}
    make(folder, 5, **(CONFIGS[name] | facts | {"architectures": [named]} | changes))
    weights(folder, large_key_biases)
    path = folder / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens([tokenizers.AddedToken(STEP, special=True)])
    path.write_text(tokenizer.to_str(), encoding="utf-8")
    return folder


def large_key_biases(values: dict[str, torch.Tensor]) -> None:
    """Key biases of the norm that they have in Qwen2.5, of the models that have any."""
    for name in [name for name in values if name.endswith("k_proj.bias")]:
        bias = values[name].float()
        values[name] = (bias * BIAS_NORM / bias.norm()).bfloat16()
