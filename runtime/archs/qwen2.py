"""Qwen2 and Qwen2.5, dense: 0.5B to 72B, Coder, Math, QwQ. Llama with biases on q, k and v."""

from typing import ClassVar

from runtime.archs.base import Family


class Qwen2(Family):
    name = "qwen2"
    hf_types: ClassVar[tuple[str, ...]] = ("qwen2",)
    hf_class = "Qwen2ForCausalLM"
    gguf_head_dim = False
    biased = ("attn_q", "attn_k", "attn_v")
