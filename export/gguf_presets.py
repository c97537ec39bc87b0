"""Which type each tensor of a GGUF file gets: llama.cpp's mixtures.

They follow llama.cpp's `llama_tensor_get_type` for models with an importance matrix, so that
"Q4_K_M" here is the same mixture, tensor by tensor, as the file of that name made by llama-quantize
(tests/quantize/golden_types.json is what it does).
"""

from dataclasses import replace

from export.mixture import (
    Choice,
    Preset,
    Spot,
    everywhere,
    where_early,
    where_grouped,
    where_sensitive,
)

BIG = 80
"""Layers of the 70B class: 8 query heads share a value head there."""


EIGHT = 8
"""Experts of the models in which llama.cpp gives attention more bits: it is small there."""
OUTPUT_RAISED = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ4_NL", "IQ4_XS")
"""Presets in which they have Q5_K for attn_output; in the others it has the base type."""


def _preset(base: str, head: str = "Q6_K", **exceptions: Choice) -> Preset:
    value = _raised_in_big(exceptions.get("attn_v", everywhere(base)), base)
    return Preset(base, exceptions | {"attn_v": value}, head)


def _raised_in_big(rule: Choice, base: str) -> Choice:
    """The rule, but Q5_K instead of 3 or 4 bits in the 70B class: small there, and counts much."""

    def choose(spot: Spot) -> str:
        found = rule(spot) or base
        return "Q5_K" if spot.layers == BIG and found in ("Q3_K", "Q4_K") else found

    return choose


def _raised_in_eight(name: str, preset: Preset) -> Preset:
    """A preset that is not one of floats, with more bits for attention beside eight experts."""
    raised = {"attn_v": "Q8_0", "attn_k": "Q8_0"}
    raised["attn_output"] = "Q5_K" if name in OUTPUT_RAISED else preset.base

    def rule(part: str) -> Choice:
        known = preset.exceptions.get(part, everywhere(preset.base))
        return lambda spot: raised[part] if spot.experts == EIGHT else known(spot)

    return replace(
        preset, exceptions=dict(preset.exceptions) | {part: rule(part) for part in raised}
    )


DENSE: dict[str, Preset] = {
    "Q2_K": _preset(
        "Q2_K",
        attn_v=lambda s: "Q4_K" if s.grouped >= 4 else "Q3_K",
        attn_output=everywhere("Q3_K"),
        ffn_down=everywhere("Q3_K"),
    ),
    "Q3_K_S": _preset("Q3_K"),
    "Q3_K_M": _preset(
        "Q3_K",
        attn_v=lambda s: "Q5_K" if s.layer < 2 else "Q4_K",
        attn_output=everywhere("Q4_K"),
        ffn_down=lambda s: "Q5_K" if s.layer < s.layers // 16 else "Q4_K",
    ),
    "Q3_K_L": _preset(
        "Q3_K",
        attn_v=everywhere("Q5_K"),
        attn_output=everywhere("Q5_K"),
        ffn_down=everywhere("Q5_K"),
    ),
    "Q4_0": _preset("Q4_0", ffn_down=where_early("Q4_1")),
    "Q4_1": _preset("Q4_1"),
    "Q4_K_S": _preset(
        "Q4_K", attn_v=lambda s: "Q5_K" if s.layer < 4 else None, ffn_down=where_early("Q5_K")
    ),
    "Q4_K_M": _preset("Q4_K", attn_v=where_sensitive("Q6_K"), ffn_down=where_sensitive("Q6_K")),
    "Q5_0": _preset("Q5_0", ffn_down=where_early("Q5_1")),
    "Q5_1": _preset("Q5_1"),
    "Q5_K_S": _preset("Q5_K"),
    "Q5_K_M": _preset("Q5_K", attn_v=where_sensitive("Q6_K"), ffn_down=where_sensitive("Q6_K")),
    "Q6_K": _preset("Q6_K"),
    "Q8_0": _preset("Q8_0", head="Q8_0"),
    "IQ4_NL": _preset("IQ4_NL", attn_v=where_grouped("Q5_K")),
    "IQ4_XS": _preset("IQ4_XS", attn_v=where_grouped("Q5_K")),
    "F16": _preset("F16", head="F16"),
    "BF16": _preset("BF16", head="BF16"),
    "F32": _preset("F32", head="F32"),
}
PRESETS = {
    name: preset if name in ("F16", "BF16", "F32") else _raised_in_eight(name, preset)
    for name, preset in DENSE.items()
}
