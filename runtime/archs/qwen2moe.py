"""Qwen2-57B-A14B and Qwen1.5-MoE-A2.7B: Qwen2 with experts, one of them for every token."""

from typing import Any

from runtime import window_config
from runtime.archs.experts import MoEFamily

SHARED = "shared_expert_intermediate_size"


class Qwen2MoE(MoEFamily):
    name = "qwen2moe"
    hf_types = ("qwen2_moe",)
    hf_class = "Qwen2MoeForCausalLM"
    gguf_head_dim = False
    gguf_normalized = False
    gguf_tied = False

    def sizes(self, config: dict[str, Any]) -> dict[str, Any]:
        if not config.get(SHARED):
            raise KeyError(SHARED)
        return super().sizes(config) | {"shared_ffn": config[SHARED]}

    def windows(self, config: dict[str, Any], layers: int) -> dict[str, Any]:
        # unlike in the dense models: every other layer before `max_window_layers`
        window = window_config.used(config)
        return window_config.windows(
            config,
            layers,
            window,
            lambda index: index < window_config.boundary(config, 28) and index % 2 == 0,
        )

    def biases(self, config: dict[str, Any]) -> tuple[str, ...]:
        return ("attn_q", "attn_k", "attn_v") if config.get("qkv_bias", True) else ()
