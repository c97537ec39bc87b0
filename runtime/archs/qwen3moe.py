"""Qwen3-30B-A3B and Qwen3-235B-A22B: Qwen3 with experts."""

from typing import Any

from runtime import window_config
from runtime.archs.experts import MoEFamily
from runtime.archs.qwen3 import Qwen3
from runtime.errors import UnsupportedError


class Qwen3MoE(MoEFamily, Qwen3):
    name = "qwen3moe"
    hf_types = ("qwen3_moe",)
    hf_keys = (*MoEFamily.hf_keys, "attention_bias")
    hf_class = "Qwen3MoeForCausalLM"
    hf_experts = ("num_local_experts", "num_experts")  # transformers 5 saves the former
    gguf_normalized = True

    def windows(self, config: dict[str, Any], layers: int) -> dict[str, Any]:
        # transformers reads no layer_types here: all layers have the window, or none
        plain = {key: value for key, value in config.items() if key != "layer_types"}
        window = window_config.used(config)
        found = window_config.windows(plain, layers, window, lambda index: True)
        if (
            config.get("layer_types")
            and window_config.windows(config, layers, window, lambda index: True) != found
        ):
            raise UnsupportedError(
                "config.json has layer_types that differ from use_sliding_window, and transformers "
                "gives all layers of a qwen3_moe the same attention; leave them out."
            )
        return found
