"""Qwen3, dense: 0.6B to 32B. Llama with a norm of each query and key head, before rope."""

from dataclasses import replace
from typing import Any, ClassVar

from runtime import window_config
from runtime.archs.base import Arch, Family
from runtime.archs.layer import Attention, Norm
from runtime.archs.qwen2 import later_layers


class Qwen3(Family):
    name = "qwen3"
    hf_types = ("qwen3",)
    hf_keys: ClassVar[tuple[str, ...]] = ("attention_bias", *window_config.KEYS)
    hf_class = "Qwen3ForCausalLM"
    gguf_biased = ("attn_q", "attn_k", "attn_v")
    gguf_ffn_scales = True

    def attention(self, arch: Arch, index: int) -> Attention:
        width, eps = arch.head_dim, arch.eps
        return replace(
            super().attention(arch, index),
            q_norm=Norm("attn_q_norm", "self_attn.q_norm", width, eps),
            k_norm=Norm("attn_k_norm", "self_attn.k_norm", width, eps),
        )

    def sizes(self, config: dict[str, Any]) -> dict[str, Any]:
        # heads are 128 channels wide where config.json does not say, whatever the hidden size
        return super().sizes({"head_dim": 128} | config)

    def windows(self, config: dict[str, Any], layers: int) -> dict[str, Any]:
        return later_layers(config, layers)

    def biases(self, config: dict[str, Any]) -> tuple[str, ...]:
        attention = ("attn_q", "attn_k", "attn_v", "attn_output")
        return attention if config.get("attention_bias") else ()
