"""Qwen3-30B-A3B and Qwen3-235B-A22B: Qwen3 with experts."""

from runtime.archs.experts import MoEFamily
from runtime.archs.qwen3 import Qwen3


class Qwen3MoE(MoEFamily, Qwen3):
    name = "qwen3moe"
    hf_types = ("qwen3_moe",)
    hf_class = "Qwen3MoeForCausalLM"
    gguf_normalized = True
