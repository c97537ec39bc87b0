"""The rope settings of a config.json, `rope_scaling` or `rope_parameters`: read and checked."""

import math
from typing import Any

from runtime.errors import CorruptFileError, UnsupportedError


def theta(scaling: dict[str, Any], config: dict[str, Any]) -> float | None:
    """The base of the frequencies, if given.

    Raises UnsupportedError where transformers would lose it.
    """
    base = scaling.get("rope_theta") or config.get("rope_theta")
    lost = (config.get("rope_parameters") or {}).get("rope_theta")
    if base is None and lost is not None:
        raise UnsupportedError(
            "config.json has rope_scaling beside rope_parameters, and only the latter has a "
            f"rope_theta ({lost:g}), which transformers then loses; write it into rope_scaling."
        )
    return float(base) if base else None


def attention_factor(scaling: dict[str, Any]) -> float | None:
    """yarn's attention factor where two mscale are given, as DeepSeek's; None = yarn's own."""
    one, all_dim = scaling.get("mscale"), scaling.get("mscale_all_dim")
    factor = float(scaling.get("factor") or 1.0)
    if not one or not all_dim or factor <= 1:
        return None
    above, below = (0.1 * float(scale) * math.log(factor) + 1 for scale in (one, all_dim))
    return above / below


def refuse_partial(scaling: dict[str, Any], config: dict[str, Any]) -> None:
    part = scaling.get("partial_rotary_factor") or config.get("partial_rotary_factor")
    if part not in (None, 1):
        raise UnsupportedError(
            f"config.json has partial_rotary_factor {part}, and rope on a part of each head is not "
            "supported for this architecture."
        )


def refuse_by_layer(scaling: dict[str, Any]) -> None:
    kinds = sorted(name for name, value in scaling.items() if isinstance(value, dict))
    if kinds:
        raise UnsupportedError(
            f"config.json has rope settings for types of layers ({', '.join(kinds)}), and only one "
            "rope for all layers is supported; where they are equal, write them without the type."
        )


def refuse_incomplete(scaling: dict[str, Any], rope_type: str) -> None:
    """Raise CorruptFileError for a scaling without the numbers that it is made of."""
    missing = [key for key in NEEDED.get(rope_type, ()) if scaling.get(key) is None]
    if missing:
        raise CorruptFileError(
            f"config.json asks for rope scaling {rope_type!r} without {', '.join(missing)}; write "
            "what the model was trained with into its rope settings."
        )


NEEDED = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
}
"""Scaling -> what transformers does not open a model without."""

KEYS = {
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "factor",
    "high_freq_factor",
    "low_freq_factor",
    "mscale",
    "mscale_all_dim",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "rope_theta",
    "rope_type",
    "truncate",
    "type",
}
"""What transformers reads of rope_scaling or rope_parameters."""
