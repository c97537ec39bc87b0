"""Qwen3-30B-A3B and Qwen3-235B-A22B: Qwen3 with experts."""

from runtime.archs.experts import MoEFamily
from runtime.archs.qwen3 import Qwen3


class Qwen3MoE(MoEFamily, Qwen3):
    name = "qwen3moe"
    hf_types = ("qwen3_moe",)
    hf_class = "Qwen3MoeForCausalLM"
    hf_experts = ("num_local_experts", "num_experts")  # transformers 5 saves the former
    gguf_normalized = True
