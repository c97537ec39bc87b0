"""What config.json says of a family, written anew from sizes that came out of another container."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from runtime.errors import UnsupportedError
from runtime.rope import ORIGINAL, Rope, as_llama3
from runtime.window_config import FULL, SLIDING

if TYPE_CHECKING:
    from runtime.archs.base import Arch

CLOSE = 1e-5
"""Relative difference of frequencies that the float32 of a file explains."""


class HfSizes:
    """The half of `Family` (base.py) that writes config.json; the defaults are those of a Llama."""

    hf_types: ClassVar[tuple[str, ...]]
    hf_class: ClassVar[str]
    hf_keys: ClassVar[tuple[str, ...]]

    def config(self, arch: "Arch") -> dict[str, Any]:
        """A config.json from which `Family.arch` makes these sizes.

        The rope stands in it as transformers 4 and as transformers 5 spell it. Raises
        UnsupportedError for divisors of frequencies that no scaling of config.json gives.
        """
        rope = self.rope_config(arch)
        kinds = [SLIDING if index in arch.windowed else FULL for index in range(arch.layers)]
        attention = "attn_q" in arch.biased
        own = {
            "attention_bias": attention,
            "qkv_bias": attention,
            "mlp_bias": "ffn_gate" in arch.biased,
            "use_sliding_window": bool(arch.windowed),
            "sliding_window": arch.window,
            **({"layer_types": kinds} if arch.windowed else {}),
        }
        scaled = {} if rope["rope_type"] == "default" else {"rope_scaling": rope}
        return {
            "model_type": self.hf_types[0],
            "architectures": [self.hf_class],
            "vocab_size": arch.vocab,
            "hidden_size": arch.hidden,
            "intermediate_size": arch.ffn,
            "num_hidden_layers": arch.layers,
            "num_attention_heads": arch.heads,
            "num_key_value_heads": arch.kv_heads,
            "head_dim": arch.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": arch.eps,
            "max_position_embeddings": arch.context,
            "tie_word_embeddings": arch.tied,
            "rope_theta": arch.rope.theta,
            "rope_parameters": rope,
            **scaled,
            **{key: value for key, value in own.items() if key in self.hf_keys},
        }

    def rope_config(self, arch: "Arch") -> dict[str, Any]:
        """`rope_parameters`. Raises UnsupportedError as `config` does."""
        return rope_settings(arch.rope, arch.head_dim)


def rope_settings(rope: Rope, head_dim: int) -> dict[str, Any]:
    """A rope as `rope_parameters`. Raises UnsupportedError as `HfSizes.config` does."""
    if rope.rope_type == "factors":
        found = as_llama3(rope, head_dim)
        if found is None:
            raise UnsupportedError(
                "the GGUF divides frequencies by a table that is not Llama 3's scaling, which no "
                "config.json says; give the checkpoint that it was made from."
            )
        rope = found
    settings: dict[str, Any] = {"rope_type": rope.rope_type, "rope_theta": rope.theta}
    if rope.rope_type != "default":
        settings["factor"] = rope.factor
    if rope.rope_type in ("llama3", "yarn"):
        settings[ORIGINAL] = rope.original_context
    if rope.rope_type == "llama3":
        settings |= {key: getattr(rope, key) for key in ("low_freq_factor", "high_freq_factor")}
    if rope.rope_type == "yarn":
        settings |= {"beta_fast": rope.beta_fast, "beta_slow": rope.beta_slow}
        settings |= {} if rope.truncate else {"truncate": False}
        if rope.attention_factor is not None:
            settings["attention_factor"] = rope.attention_factor
    return settings


def unlike(one: "Arch", other: "Arch") -> list[str]:
    """Names of the sizes in which two differ; ropes by what they compute, at any context."""
    fields = sorted(one.__dataclass_fields__.keys() - {"context"})
    return [name for name in fields if not _same(getattr(one, name), getattr(other, name), one)]


def _same(one: Any, other: Any, arch: "Arch") -> bool:
    if isinstance(one, Rope):
        if one.factors and other.factors and len(one.factors) != len(other.factors):
            return False
        channels = 2 * len(one.factors or other.factors) or arch.head_dim
        found, meant = (rope.frequencies(channels) for rope in (one, other))
        same: Iterable[bool] = np.isclose(found, meant, rtol=CLOSE, atol=0)
        return all(same) and np.isclose(one.magnitude, other.magnitude, rtol=CLOSE)
    return bool(one == other)
