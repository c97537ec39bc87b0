"""Phi-3, Phi-3.5-mini and Phi-4-mini: Llama whose linears of one input are stored as one array.

Phi-4-mini rotates a part of each head. "longrope" (Ding et al. 2024) divides frequencies by a
table, one for texts within the original context and another for longer ones, which changes what
earlier tokens mean: here the context ends where the first table does.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from runtime import rope_config, window_config
from runtime.archs.base import Arch, Family
from runtime.archs.gguf_sizes import GgufFacts
from runtime.archs.layer import Attention, GatedMLP, Op
from runtime.errors import CorruptFileError, UnsupportedError
from runtime.rope import ORIGINAL, Rope

LONGROPE = ("longrope", "su", "yarn")
"""The names that transformers takes for longrope in this family."""
USUAL_ORIGINAL = 4096
"""Original context where config.json has none, in tokens."""


@dataclass(frozen=True)
class Phi3Arch(Arch):
    """Sizes, the channels that rope rotates, and the table of longer texts."""

    rotated: int = 0
    """Channels of each head; 0 = all."""
    long_factors: tuple[float, ...] = ()
    """What longrope divides frequencies by beyond the context; nobody computes with it here."""

    @property
    def rope_channels(self) -> int:
        return self.rotated or self.head_dim


class Phi3(Family):
    name = "phi3"
    hf_types = ("phi3",)
    hf_keys = ("sliding_window", "attention_bias", "partial_rotary_factor")
    hf_class = "Phi3ForCausalLM"
    genai_type = "decoder"
    arch_type = Phi3Arch
    gguf_joined: ClassVar = {"ffn_up": ("ffn_gate", "ffn_up")}
    gguf_may_join: ClassVar = {"attn_qkv": ("attn_q", "attn_k", "attn_v")}
    gguf_rope_factors = True
    gguf_rope_tables = ("rope_factors_short.weight", "rope_factors_long.weight")

    def attention(self, arch: Arch, index: int) -> Attention:
        attention = super().attention(arch, index)
        q, k, v = attention.q, attention.k, attention.v
        total, hf = q.outputs + k.outputs + v.outputs, "self_attn.qkv_proj"
        return replace(
            attention,
            q=replace(q, hf=hf, rows=(0, total)),
            k=replace(k, hf=hf, rows=(q.outputs, total)),
            v=replace(v, hf=hf, rows=(q.outputs + k.outputs, total)),
        )

    def mlp(self, arch: Arch, index: int) -> Op:
        mlp = super().mlp(arch, index)
        assert isinstance(mlp, GatedMLP)
        total, hf = 2 * arch.ffn, "mlp.gate_up_proj"
        gate = replace(mlp.gate, hf=hf, rows=(0, total))
        return replace(mlp, gate=gate, up=replace(mlp.up, hf=hf, rows=(arch.ffn, total)))

    def sizes(self, config: dict[str, Any]) -> dict[str, Any]:
        sizes = super().sizes(plain(config))
        part = settings(config).get("partial_rotary_factor") or config.get("partial_rotary_factor")
        rotated = int(sizes["head_dim"] * float(part or 1))
        if rotated % 2 or not 0 < rotated <= sizes["head_dim"]:
            raise CorruptFileError(
                f"config.json has partial_rotary_factor {part}, so that {rotated} of "
                f"{sizes['head_dim']} channels would turn by pairs; take the config.json that came "
                "with the weights."
            )
        sizes["rotated"] = rotated if rotated < sizes["head_dim"] else 0
        if not is_long(config):
            return sizes
        short, long = (table(config, key, rotated // 2) for key in ("short_factor", "long_factor"))
        return sizes | {
            "rope": Rope(
                theta=sizes["rope"].theta,
                rope_type="factors",
                factors=short,
                original_context=original(config),
                attention_factor=magnitude(config),
            ),
            "long_factors": long,
            "context": min(sizes["context"], original(config)),
        }

    def gguf_rope(self, arch: Arch) -> tuple[np.ndarray, ...]:
        assert isinstance(arch, Phi3Arch)
        used = super().gguf_rope(arch)
        return (*used, np.array(arch.long_factors, np.float32)) if used else ()

    def gguf_keys(self, arch: Arch) -> dict[str, Any]:
        keys = super().gguf_keys(arch)
        if arch.rope.divided:
            keys["phi3.rope.scaling.original_context_length"] = arch.rope.original_context
            keys["phi3.rope.scaling.attn_factor"] = arch.rope.magnitude
        return keys

    def gguf_rotated(self, turned: int, head_dim: int) -> int:
        return min(turned, head_dim)

    def gguf_sizes(self, facts: GgufFacts) -> dict[str, Any]:
        sizes = super().gguf_sizes(facts)
        head_dim, turned = sizes["head_dim"], facts.keys.count("rope.dimension_count", 0)
        sizes["rotated"] = turned if 0 < turned < head_dim else 0
        rope, window = sizes["rope"], facts.keys.size("attention.sliding_window")
        if rope.divided:
            sizes["long_factors"] = facts.unused_factors or rope.factors
            sizes["context"] = min(sizes["context"], rope.original_context)
        if window:  # llama.cpp sees past it
            sizes["context"] = min(sizes["context"], window)
        return sizes

    def notes(self, config: dict[str, Any]) -> tuple[str, ...]:
        told = super().notes(plain(config))
        longest = int(config["max_position_embeddings"])
        if not is_long(config) or longest <= original(config):
            return told
        return (
            *told,
            f"config.json has longrope, whose long_factor is for texts of more than "
            f"{original(config):,} tokens and changes what all of their tokens mean: the context "
            f"ends there instead of after {longest:,}, and short_factor alone is used",
        )

    def rope_config(self, arch: Arch) -> dict[str, Any]:
        assert isinstance(arch, Phi3Arch)
        part = {"partial_rotary_factor": arch.rope_channels / arch.head_dim}
        if not arch.rope.divided:
            return super().rope_config(arch) | part
        return part | {
            "rope_type": "longrope",
            "rope_theta": arch.rope.theta,
            "short_factor": list(arch.rope.factors),
            "long_factor": list(arch.long_factors),
            "attention_factor": arch.rope.magnitude,
            ORIGINAL: arch.rope.original_context,
        }

    def config(self, arch: Arch) -> dict[str, Any]:
        found = super().config(arch)
        return found | ({ORIGINAL: arch.rope.original_context} if arch.rope.divided else {})

    def windows(self, config: dict[str, Any], layers: int) -> dict[str, Any]:
        # transformers has the window in every layer, whatever layer_types say
        found = {key: value for key, value in config.items() if key != "layer_types"}
        window = window_config.size(config, None)
        return window_config.windows(found, layers, window, lambda index: True)


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """The rope settings of a config.json that count, as for transformers."""
    found: dict[str, Any] = config.get("rope_scaling") or config.get("rope_parameters") or {}
    return found


def is_long(config: dict[str, Any]) -> bool:
    """Whether it has longrope. Raises UnsupportedError for a scaling that this family has not."""
    kind = settings(config).get("rope_type") or settings(config).get("type") or "default"
    if kind not in ("default", *LONGROPE):
        raise UnsupportedError(
            f"config.json asks for rope scaling {kind!r}, which transformers refuses in a phi3; "
            "supported: default, longrope."
        )
    return kind in LONGROPE


def plain(config: dict[str, Any]) -> dict[str, Any]:
    """The config without longrope and a part of the channels, as every family reads it."""
    is_long(config)
    base = rope_config.theta(settings(config), config)
    own = {"rope_scaling", "rope_parameters", "partial_rotary_factor", ORIGINAL}
    rest = {key: value for key, value in config.items() if key not in own}
    return rest | ({"rope_theta": base} if base else {})


def original(config: dict[str, Any]) -> int:
    """Tokens within which short_factor counts."""
    return int(config.get(ORIGINAL) or USUAL_ORIGINAL)


def table(config: dict[str, Any], key: str, pairs: int) -> tuple[float, ...]:
    """Divisors of the frequencies. Raises CorruptFileError where there is not one a pair."""
    found = settings(config).get(key) or ()
    if len(found) != pairs:
        raise CorruptFileError(
            f"config.json has {len(found)} numbers in longrope's {key}, and {pairs} pairs of "
            "channels turn; take the config.json that came with the weights."
        )
    return tuple(float(factor) for factor in found)


def magnitude(config: dict[str, Any]) -> float:
    """What longrope multiplies cos and sin by. Raises CorruptFileError where that is no number."""
    given = settings(config).get("attention_factor")
    if given is not None:
        return float(given)
    longest, start = int(config["max_position_embeddings"]), original(config)
    factor = float(settings(config).get("factor") or longest / start)
    if factor <= 1:
        return 1.0
    if start < 2:
        raise CorruptFileError(
            f"config.json has {ORIGINAL} {start}, and longrope divides by its logarithm; take the "
            "config.json that came with the weights."
        )
    return math.sqrt(1 + math.log(factor) / math.log(start))
