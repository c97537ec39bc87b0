"""The released models, each made small with its true structure: docs/models.md says what runs.

Sizes are those of the config.json of each release on the Hugging Face hub. The small ones have as
many heads a key-value head, and widths that 2, 4, ... 256 divide as they divide the true ones: that
decides which types fit.
"""

from dataclasses import dataclass, field
from math import gcd
from pathlib import Path
from typing import Any

import torch

import edgequant
from runtime.errors import EdgequantError
from tests.one_file_models import make, weights

EQUAL = ""
BLOCK = 256
"""The longest block of a quantization type."""
MOST_FFN = 768
KEY_BIAS = 900.0
"""Norm of the key biases in Qwen2.5, nearly all of it in the channels that rope hardly turns."""
SURE = 4.0
"""Factor on routers: one that nearly ties is decided by the last bit."""


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
    layers: int = 2
    gguf: str = EQUAL
    onnx: str = EQUAL

    @property
    def config(self) -> dict[str, Any]:
        """config.json of the small one."""
        heads, head_dim = self.small_heads()
        sizes = {
            "hidden_size": self.small_hidden(),
            "intermediate_size": small_width(self.ffn),
            "num_attention_heads": heads,
            "num_key_value_heads": heads * self.kv_heads // self.heads,
            "num_hidden_layers": self.layers,
            "tie_word_embeddings": self.tied,
        }
        if heads * head_dim != sizes["hidden_size"] or "head_dim" in self.facts:
            sizes["head_dim"] = head_dim
        facts = {k: small_width(v) if k in WIDTHS else v for k, v in self.facts.items()}
        return facts | sizes

    def small_heads(self) -> tuple[int, int]:
        """Heads and their width: the least of both whose product has the blocks of the true one."""
        common = gcd(self.heads, self.kv_heads)
        wanted = gcd(self.heads * self.head_dim, BLOCK)
        fitting = [
            (self.heads // several, head_dim)
            for several in range(1, common + 1)
            for head_dim in (16, 32, 64, 128)
            if common % several == 0
            and head_dim <= self.head_dim
            and gcd(self.heads // several * head_dim, BLOCK) == wanted
        ]
        return min(fitting, key=lambda pair: (pair[0] * pair[1], pair[0]))

    def small_hidden(self) -> int:
        """The heads' channels, where the true model has as many."""
        heads, head_dim = self.small_heads()
        return heads * head_dim if self.heads * self.head_dim == self.hidden else 2 * BLOCK

    def make(self, folder: Path) -> Path:
        """The checkpoint, its weights such that activations keep their size."""
        make(folder, **self.config)
        head_dim = self.small_heads()[1]
        weights(folder, lambda values: _real(values, head_dim))
        return folder


def small_width(width: int) -> int:
    """The width below MOST_FFN that blocks divide as they divide this one."""
    step = gcd(width, BLOCK)
    return min(width, MOST_FFN // step // 2 * 2 * step + (step if step < BLOCK else 0))


def _real(values: dict[str, torch.Tensor], head_dim: int) -> None:
    """Scale the weights in place: matrices by their inputs, key biases as in Qwen2.5."""
    for name, value in values.items():
        if name.endswith("k_proj.bias"):
            heads = value.reshape(-1, 2, head_dim // 2)  # channels turn in pairs
            heads[..., -1] *= KEY_BIAS / heads[..., -1].norm()
        elif value.ndim > 1:
            sure = SURE if name.endswith(("mlp.gate.weight", "shared_expert_gate.weight")) else 1
            values[name] = value / value.std() * sure / value.shape[-1] ** 0.5
        elif "norm" in name:
            values[name] = value / value.mean()


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
    own = {"rope_theta": 1e6, "max_position_embeddings": 40960, "head_dim": 128}
    return {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]} | own | facts


def experts(family: str, count: int, top_k: int, width: int, **facts: Any) -> dict[str, Any]:
    own = {"num_experts": count, "num_experts_per_tok": top_k, "moe_intermediate_size": width}
    name = {"qwen2_moe": "Qwen2MoeForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM"}[family]
    return {"model_type": family, "architectures": [name], "rope_theta": 1e6} | own | facts


YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}

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
    Release("DeepSeek-R1-Distill-Qwen-14B", 5120, 40, 8, 13824, False, 128, qwen2(context=131072)),
    Release("DeepSeek-R1-Distill-Qwen-32B", 5120, 40, 8, 27648, False, 128, qwen2(context=131072)),
    Release("DeepSeek-R1-Distill-Llama-8B", 4096, 32, 8, 14336, False, 128, llama(factor=8.0)),
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
    ),
    Release(
        "Qwen2-57B-A14B",
        3584, 28, 4, 18944, False, 128,
        experts("qwen2_moe", 64, 8, 2560, shared_expert_intermediate_size=20480),
        layers=1,
    ),
    Release(
        "Qwen3-30B-A3B",
        2048, 32, 4, 6144, False, 128,
        experts("qwen3_moe", 128, 8, 768, norm_topk_prob=True, head_dim=128),
    ),
    Release(
        "Qwen3-235B-A22B",
        4096, 64, 4, 12288, False, 128,
        experts("qwen3_moe", 128, 8, 1536, norm_topk_prob=True, head_dim=128),
    ),
]  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """What becomes of a release in one container."""

    refused: str = ""
    """The sentence."""
    floats: float = 0.0
    """KL of the file without quantization from transformers, nats a token, in the target engine."""
    rounded: float = 0.0
    """The same of the quantized file."""

    def __str__(self) -> str:
        if self.refused:
            return f"refused: {self.refused}"
        return f"{magnitude(self.floats)}; {self.rounded:.2g}"


TARGETS = {"gguf": ("gguf:F32", "gguf:Q4_K_M"), "onnx": ("onnx:fp32", "onnx:int4")}
"""Container -> the file without quantization, and the usual one."""


def magnitude(kl: float) -> str:
    """A bound that machines agree on."""
    return next(f"< 1e-{n}" for n in range(7, -9, -1) if kl < 10.0**-n)


def measure(release: Release, container: str, folder: Path) -> Cell:
    """Make the small one in a folder, write both files, and run them in the target engine."""
    source = release.make(folder / "model")
    try:
        made = edgequant.quantize(
            source,
            TARGETS[container],
            output=folder / "out",
            effort="low",
            rows=2,
            length=64,
            check=False,
        )
    except EdgequantError as error:
        assert not list((folder / "out").glob("*"))
        return Cell(refused=str(error))
    found = edgequant.check(
        [artifact.path for artifact in made.artifacts],
        source,
        backend="llamacpp",
        reference="transformers",
        eval_rows=1,
        eval_length=64,
    )
    floats, rounded = (result.metrics.kl for result in found.results)
    return Cell(floats=floats, rounded=rounded)
