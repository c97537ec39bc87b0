"""Llama 2 and 3 and models of the same shape (SmolLM, TinyLlama)."""

from typing import Any, ClassVar

import numpy as np

from runtime.archs.base import Arch, Family


class Llama(Family):
    name = "llama"
    hf_types: ClassVar[tuple[str, ...]] = ("llama",)
    hf_keys: ClassVar[tuple[str, ...]] = ("attention_bias", "mlp_bias")
    hf_class = "LlamaForCausalLM"
    gguf_rope_factors = True
    gguf_ffn_scales = True

    def biases(self, config: dict[str, Any]) -> tuple[str, ...]:
        attention = (
            ("attn_q", "attn_k", "attn_v", "attn_output") if config.get("attention_bias") else ()
        )
        return attention + (("ffn_gate", "ffn_up", "ffn_down") if config.get("mlp_bias") else ())

    def gguf_rows(self, arch: Arch, name: str) -> np.ndarray | None:
        """GGUF's llama rotates neighbouring channels, HF rotates halves: q and k interleave."""
        part = name.split(".")[-2]
        if part not in ("attn_q", "attn_k"):
            return None
        heads = arch.heads if part == "attn_q" else arch.kv_heads
        rows = np.arange(heads * arch.head_dim).reshape(heads, 2, arch.head_dim // 2)
        return rows.swapaxes(1, 2).reshape(-1)
