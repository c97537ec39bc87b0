"""Mistral and Ministral: Llama with a sliding window in its layers, or in those that it names."""

from typing import Any

from runtime import window_config
from runtime.archs.llama import Llama


class Mistral(Llama):
    name = "mistral"
    architecture = "llama"
    hf_types = ("mistral", "ministral")
    hf_keys = ("sliding_window", "layer_types")
    hf_class = "MistralForCausalLM"

    def sizes(self, config: dict[str, Any]) -> dict[str, Any]:
        return super().sizes({"num_key_value_heads": 8} | config)

    def windows(self, config: dict[str, Any], layers: int) -> dict[str, Any]:
        window = window_config.size(config, 4096)
        return window_config.windows(config, layers, window, lambda index: True)

    def biases(self, config: dict[str, Any]) -> tuple[str, ...]:
        return ()
