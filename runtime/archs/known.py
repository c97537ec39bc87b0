"""The family that a config.json names, or the nearest of those that are known."""

from typing import Any

from runtime.archs.base import FAMILIES, Family
from runtime.errors import UnsupportedError

SIZES = {
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "rms_norm_eps",
    "max_position_embeddings",
}
"""Keys that every family needs."""
READ = SIZES | {
    "num_key_value_heads",
    "head_dim",
    "tie_word_embeddings",
    "hidden_act",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "quantization_config",
    "text_config",
    "id2label",
    "num_labels",
    "is_causal",
}
"""Keys that every family reads, or refuses."""
SILENT = {
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "auto_map",
    "bos_token_id",
    "dtype",
    "embd_pdrop",
    "eos_token_id",
    "initializer_range",
    "label2id",
    "model_type",
    "pad_token_id",
    "pretraining_tp",
    "resid_pdrop",
    "tokenizer_class",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}
"""Keys that do not change what a model computes."""
MOST_NAMED = 6


def family_of(config: dict[str, Any]) -> Family:
    """The family of a HF config.json.

    Raises UnsupportedError naming the known model types, the nearest of them, and what differs.
    """
    kind = config.get("model_type")
    for family in FAMILIES.values():
        if kind in family.hf_types:
            return family
    known = ", ".join(t for family in FAMILIES.values() for t in family.hf_types)
    if not kind:
        named = config.get("architectures") or config.get("_class_name") or "no model at all"
        raise UnsupportedError(
            f"config.json has no model_type and names {named}; supported: {known}."
        )
    raise UnsupportedError(
        f"unknown architecture {kind!r} in config.json; supported: {known}; {nearest(config)}."
    )


def nearest(config: dict[str, Any]) -> str:
    """Which family has most of these settings, and which of them it has not."""

    def distance(family: Family) -> tuple[int, int]:
        return len(unread(config, family)), len(set(family.hf_keys) - config.keys())

    inner = (config.get("text_config") or {}).get("model_type")
    named = next((family for family in FAMILIES.values() if inner in family.hf_types), None)
    family = named or min(FAMILIES.values(), key=distance)
    kind = f"{inner} (model_type of its text_config)" if named else family.hf_types[0]
    differs = []
    if extra := unread(config, family):
        differs.append(f"which has no {_some(extra)}")
    if missing := sorted(SIZES - config.keys()):
        differs.append(f"which needs {_some(missing)}")
    found = " and ".join(differs) or "whose settings it has, so that its layers must differ"
    return f"the nearest is {kind}, {found}"


def unread(config: dict[str, Any], family: Family) -> list[str]:
    """Settings that a family does not know, without those that are switched off."""
    said = {key for key, value in config.items() if value not in (None, False)}
    return sorted(said - READ - SILENT - set(family.hf_keys))


def _some(keys: list[str]) -> str:
    """Names of keys, the first of many."""
    more = f" and {len(keys) - MOST_NAMED} more" if len(keys) > MOST_NAMED else ""
    return ", ".join(keys[:MOST_NAMED]) + more
