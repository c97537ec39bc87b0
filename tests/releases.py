"""The released models, each made small with its true structure: docs/models.md says what runs.

Sizes are those of the config.json of each release on the Hugging Face hub.
"""

from dataclasses import dataclass, field
from math import gcd
from pathlib import Path
from typing import Any

import torch

from tests.one_file_models import make, weights

EQUAL = ""
HEAD = 16
"""Channels of a head: onnxruntime's attention rotates only multiples of that."""
MOST_HEADS = 16


@dataclass(frozen=True)
class Release:
    """A released model, and the sentence with which a container refuses it, EQUAL if none."""

    name: str
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    tied: bool = False
    head_dim: int = 128
    facts: dict[str, Any] = field(default_factory=dict)
    """The rest of config.json."""
    gguf: str = EQUAL
    onnx: str = EQUAL

    @property
    def config(self) -> dict[str, Any]:
        """config.json of the small one: as many heads a key-value head, sizes in proportion."""
        several = self.divisor
        heads, kv_heads = self.heads // several, self.kv_heads // several
        hidden = self.scaled(self.hidden)
        sizes = {
            "hidden_size": hidden,
            "intermediate_size": self.scaled(self.ffn),
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "num_hidden_layers": 2,
            "tie_word_embeddings": self.tied,
        }
        if heads * HEAD != hidden:
            sizes["head_dim"] = HEAD
        facts = {
            key: self.scaled(value) if key in WIDTHS else value for key, value in self.facts.items()
        }
        return sizes | facts

    @property
    def divisor(self) -> int:
        """Heads are fewer by this."""
        common = gcd(self.heads, self.kv_heads)
        fitting = [n for n in range(1, common + 1) if common % n == 0]
        return next((n for n in fitting if self.heads // n <= MOST_HEADS), common)

    def scaled(self, width: int) -> int:
        """A width in proportion to the heads' channels, an even number."""
        return 2 * round(width * HEAD / (2 * self.divisor * self.head_dim))

    def make(self, folder: Path) -> Path:
        """The checkpoint; key biases have the norm of 900 that Qwen2.5's have."""
        make(folder, **self.config)

        def grow(values: dict[str, torch.Tensor]) -> None:
            for name, value in values.items():
                if name.endswith("k_proj.bias"):
                    values[name] = value / value.norm() * 900
                elif name.endswith(("mlp.gate.weight", "shared_expert_gate.weight")):
                    values[name] = value * 8  # a router that is sure of itself

        weights(folder, grow)
        return folder


WIDTHS = ("moe_intermediate_size", "shared_expert_intermediate_size")


def qwen2(theta: float = 1e6, context: int = 32768, **facts: Any) -> dict[str, Any]:
    rope = {"rope_theta": theta, "max_position_embeddings": context}
    return {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]} | rope | facts


def llama(theta: float = 5e5, factor: float = 0, **facts: Any) -> dict[str, Any]:
    out = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "rope_theta": theta}
    if factor:
        scaling = {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0}
        scaling |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
        out |= {"rope_scaling": scaling, "max_position_embeddings": 131072}
    return out | {"rms_norm_eps": 1e-5} | facts


def qwen3(**facts: Any) -> dict[str, Any]:
    own = {"rope_theta": 1e6, "max_position_embeddings": 40960}
    return {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]} | own | facts


def experts(family: str, count: int, top_k: int, width: int, **facts: Any) -> dict[str, Any]:
    own = {"num_experts": count, "num_experts_per_tok": top_k, "moe_intermediate_size": width}
    name = {"qwen2_moe": "Qwen2MoeForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM"}[family]
    return {"model_type": family, "architectures": [name], "rope_theta": 1e6} | own | facts


YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
NO_EXPERTS = "has MoE, which this ONNX writer has no operators for"

RELEASES = [
    Release("Qwen2.5-0.5B, -Coder-0.5B", 896, 14, 2, 4864, True, 64, qwen2()),
    Release("Qwen2.5-1.5B, -Coder-1.5B", 1536, 12, 2, 8960, True, 128, qwen2()),
    Release("Qwen2.5-3B, -Coder-3B", 2048, 16, 2, 11008, True, 128, qwen2()),
    Release("Qwen2.5-7B, -Coder-7B", 3584, 28, 4, 18944, False, 128, qwen2()),
    Release("Qwen2.5-14B, -Coder-14B", 5120, 40, 8, 13824, False, 128, qwen2()),
    Release("Qwen2.5-32B, -Coder-32B", 5120, 40, 8, 27648, False, 128, qwen2()),
    Release("Qwen2.5-72B", 8192, 64, 8, 29568, False, 128, qwen2()),
    Release("Qwen2.5-7B with YaRN", 3584, 28, 4, 18944, False, 128, qwen2(rope_scaling=YARN)),
    Release("Qwen2.5-Math-1.5B", 1536, 12, 2, 8960, True, 128, qwen2(1e4, 4096)),
    Release("Qwen2.5-Math-7B", 3584, 28, 4, 18944, False, 128, qwen2(1e4, 4096)),
    Release("QwQ-32B", 5120, 40, 8, 27648, False, 128, qwen2(context=40960)),
    Release("DeepSeek-R1-Distill-Qwen-1.5B", 1536, 12, 2, 8960, False, 128, qwen2(1e4, 131072)),
    Release("DeepSeek-R1-Distill-Qwen-7B", 3584, 28, 4, 18944, False, 128, qwen2(1e4, 131072)),
    Release("DeepSeek-R1-Distill-Qwen-32B", 5120, 40, 8, 27648, False, 128, qwen2(context=131072)),
    Release("Llama-3-8B", 4096, 32, 8, 14336, False, 128, llama(max_position_embeddings=8192)),
    Release("Llama-3.1-8B", 4096, 32, 8, 14336, False, 128, llama(factor=8.0)),
    Release("Llama-3.1-70B, -3.3-70B", 8192, 64, 8, 28672, False, 128, llama(factor=8.0)),
    Release("Llama-3.1-405B", 16384, 128, 8, 53248, False, 128, llama(factor=8.0)),
    Release("Llama-3.2-1B", 2048, 32, 8, 8192, True, 64, llama(factor=32.0)),
    Release("Llama-3.2-3B", 3072, 24, 8, 8192, True, 128, llama(factor=32.0)),
    Release("TinyLlama-1.1B", 2048, 32, 4, 5632, False, 64, llama(1e4)),
    Release("SmolLM2-135M", 576, 9, 3, 1536, True, 64, llama(1e5)),
    Release("SmolLM2-360M", 960, 15, 5, 2560, True, 64, llama(1e5)),
    Release("Qwen3-0.6B", 1024, 16, 8, 3072, True, 128, qwen3()),
    Release("Qwen3-1.7B", 2048, 16, 8, 6144, True, 128, qwen3()),
    Release("Qwen3-4B", 2560, 32, 8, 9728, True, 128, qwen3()),
    Release("Qwen3-8B", 4096, 32, 8, 12288, False, 128, qwen3()),
    Release("Qwen3-14B", 5120, 40, 8, 17408, False, 128, qwen3()),
    Release("Qwen3-32B", 5120, 64, 8, 25600, False, 128, qwen3()),
    Release(
        "Qwen1.5-MoE-A2.7B",
        2048, 16, 16, 5632, False, 128,
        experts("qwen2_moe", 60, 4, 1408, shared_expert_intermediate_size=5632),
        onnx=NO_EXPERTS,
    ),
    Release(
        "Qwen2-57B-A14B",
        3584, 28, 4, 18944, False, 128,
        experts("qwen2_moe", 64, 8, 2560, shared_expert_intermediate_size=20480),
        onnx=NO_EXPERTS,
    ),
    Release(
        "Qwen3-30B-A3B",
        2048, 32, 4, 6144, False, 128,
        experts("qwen3_moe", 128, 8, 768, norm_topk_prob=True),
        onnx=NO_EXPERTS,
    ),
    Release(
        "Qwen3-235B-A22B",
        4096, 64, 4, 12288, False, 128,
        experts("qwen3_moe", 128, 8, 1536, norm_topk_prob=True),
        onnx=NO_EXPERTS,
    ),
]  # fmt: skip
