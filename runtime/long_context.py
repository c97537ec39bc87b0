"""Attention of Qwen's million-token models that nobody computes here, in a config.json."""

from typing import Any

DUAL = "dual_chunk_attention_config"
SPARSE = "sparse_attention_config"


def plain_context(config: dict[str, Any], context: int) -> int:
    """Tokens up to which plain attention is what a model computes, `context` at most.

    Dual chunk attention (An et al. 2024) changes the positions of keys that are more than a chunk
    away, and only those.
    """
    chunks = config.get(DUAL) or {}
    ends = [chunks.get(key) for key in ("chunk_size", "original_max_position_embeddings")]
    return min([context, *filter(None, ends)])


def notes(config: dict[str, Any], context: int) -> tuple[str, ...]:
    """What of a config is left out, one sentence each; `context` is what its positions reach."""
    told = []
    if config.get(DUAL):
        end = plain_context(config, context)
        told.append(
            f"config.json has {DUAL}, which neither transformers nor llama.cpp nor onnxruntime "
            f"computes: plain attention is the same for {end:,} tokens, where the context ends"
            + (f" instead of after {context:,}" if end < context else "")
        )
    if config.get(SPARSE):
        told.append(
            f"config.json has {SPARSE}, by which some servers skip keys of long prompts: here "
            "every query reads all that it sees"
        )
    return tuple(told)
