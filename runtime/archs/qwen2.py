"""Qwen2 and Qwen2.5, dense: 0.5B to 72B, Coder, Math, QwQ. Llama with biases on q, k and v."""

from typing import Any, ClassVar

from runtime import window_config
from runtime.archs.base import Family


class Qwen2(Family):
    name = "qwen2"
    hf_types: ClassVar[tuple[str, ...]] = ("qwen2",)
    hf_keys = window_config.KEYS
    hf_class = "Qwen2ForCausalLM"
    gguf_head_dim = False
    biased = ("attn_q", "attn_k", "attn_v")

    def windows(self, config: dict[str, Any], layers: int) -> dict[str, Any]:
        return later_layers(config, layers)


def later_layers(config: dict[str, Any], layers: int) -> dict[str, Any]:
    """The windows of Qwen: layers from `max_window_layers` on have one, where any has."""
    window = window_config.used(config)
    return window_config.windows(
        config, layers, window, lambda index: index >= window_config.boundary(config, 28)
    )
