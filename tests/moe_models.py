"""Small random models with experts, as transformers and other tools save them."""

from pathlib import Path
from typing import Any

import torch

from tests.one_file_models import make, weights

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "intermediate_size": 96,
    "tie_word_embeddings": False,
}
QWEN2 = SIZES | {
    "model_type": "qwen2_moe",
    "architectures": ["Qwen2MoeForCausalLM"],
    "shared_expert_intermediate_size": 64,
    "norm_topk_prob": False,
}
QWEN3 = SIZES | {
    "model_type": "qwen3_moe",
    "architectures": ["Qwen3MoeForCausalLM"],
    "head_dim": 32,
    "norm_topk_prob": True,
}

NORMALIZED = "norm_topk_prob .*, and llama.cpp .* normalizes the experts' weights"
DENSE = "llama.cpp wants experts in every layer"

MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "qwen2": (QWEN2, ""),
    "qwen2 normalized": (QWEN2 | {"norm_topk_prob": True}, NORMALIZED),
    "qwen2 tied": (QWEN2 | {"tie_word_embeddings": True}, "only with a head of its own"),
    "qwen2 without biases": (QWEN2 | {"qkv_bias": False}, ""),
    "qwen2 one of many": (QWEN2 | {"num_experts": 17, "num_experts_per_tok": 1}, ""),
    "qwen2 dense layers": (QWEN2 | {"num_hidden_layers": 4, "mlp_only_layers": [0, 2]}, DENSE),
    "qwen3": (QWEN3, ""),
    "qwen3 not normalized": (QWEN3 | {"norm_topk_prob": False}, NORMALIZED),
    "qwen3 unsaid": ({k: v for k, v in QWEN3.items() if k != "norm_topk_prob"}, NORMALIZED),
    "qwen3 tied": (QWEN3 | {"tie_word_embeddings": True}, ""),
    "qwen3 all experts": (QWEN3 | {"num_experts": 4, "num_experts_per_tok": 4}, ""),
    "qwen3 biases": (QWEN3 | {"attention_bias": True}, "reads no bias of attn_output"),
    "qwen3 every second": (QWEN3 | {"num_hidden_layers": 4, "decoder_sparse_step": 2}, DENSE),
    "qwen3 a dense layer": (QWEN3 | {"mlp_only_layers": [1]}, DENSE),
}
"""Name -> config, and the sentence with which GGUF is refused, "" where it is not."""


def moe(folder: Path, config: dict[str, Any], *, fuse: bool = False, router: float = 8.0) -> Path:
    """A model whose router is `router` times a fresh one, so that some experts get most tokens."""
    make(folder, **config)

    def change(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for name in values:
            if name.endswith((".mlp.gate.weight", ".shared_expert_gate.weight")):
                values[name] = values[name] * router
        return fused(values) if fuse else values

    weights(folder, change)
    return folder


def fused(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The experts of each layer in two tensors, as transformers 5 saves them."""
    out: dict[str, torch.Tensor] = {}
    apart: dict[str, dict[tuple[int, str], torch.Tensor]] = {}
    for name, value in values.items():
        start, found, rest = name.partition(".mlp.experts.")
        if not found:
            out[name] = value
            continue
        expert, part, _ = rest.split(".")
        apart.setdefault(start + found, {})[int(expert), part] = value
    for start, of in apart.items():
        experts = range(1 + max(expert for expert, _ in of))
        both = [torch.cat([of[e, "gate_proj"], of[e, "up_proj"]]) for e in experts]
        out[f"{start}gate_up_proj"] = torch.stack(both)
        out[f"{start}down_proj"] = torch.stack([of[e, "down_proj"] for e in experts])
    return out
