"""Gemma 3, the language model: windows in most layers, each kind of layer with a rope of its own.

A norm stands before and behind attention and MLP, and norms are stored as their distance from 1.
The embedding is multiplied by the root of its width (Gemma Team 2025).
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from msgspec import Struct

from runtime import window_config
from runtime.archs.base import Arch, Family
from runtime.archs.gguf_sizes import GgufFacts
from runtime.archs.hf_sizes import rope_settings
from runtime.archs.layer import Attention, GatedMLP, Norm, Op, Residual
from runtime.errors import UnsupportedError
from runtime.json_files import RopeSettings, checked
from runtime.json_types import Number, Size
from runtime.rope import ORIGINAL, Rope
from runtime.window_config import FULL, SLIDING

PATTERN = 6
"""One layer in so many, the last of them, sees all tokens where config.json does not say."""
BASES = {FULL: ("rope_theta", 1e6), SLIDING: ("rope_local_base_freq", 1e4)}
"""Kind of layer -> the key of its rope's base outside of rope_parameters, and what it else is."""
WIDE_LAYERS = 62
"""Layers of Gemma 3 27B, by whose number llama.cpp knows it."""
TOWER = ("vision_tower", "multi_modal_projector")
"""What reads images, in a `gemma3`: it is left out."""
USUAL = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 131_072,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
"""What transformers takes where config.json does not say, as released ones of this family do."""


class Ropes(Struct):
    """`rope_parameters`, which transformers 5 writes for each kind of layer."""

    full_attention: RopeSettings | None = None
    sliding_attention: RopeSettings | None = None


class Gemma3Config(Struct):
    """What config.json says of this family alone."""

    query_pre_attn_scalar: Number
    sliding_window: Size | None = None
    sliding_window_pattern: Size = PATTERN
    layer_types: list[str] | None = None
    rope_local_base_freq: Number | None = None
    rope_parameters: Ropes | None = None
    hidden_activation: str | None = None
    attention_bias: bool | None = None
    attn_logit_softcapping: Number | None = None
    final_logit_softcapping: Number | None = None
    use_bidirectional_attention: bool | None = None


@dataclass(frozen=True)
class Gemma3Arch(Arch):
    """Sizes; `rope` is that of layers that see all tokens."""

    local_rope: Rope = Rope()
    query_scalar: float = 256.0
    """Scores are divided by its root."""


class Gemma3(Family):
    name = "gemma3"
    hf_types = ("gemma3_text", "gemma3")
    hf_beside = tuple(f"{start}{part}." for start in ("", "model.") for part in TOWER)
    hf_keys = Gemma3Config.__struct_fields__
    hf_class = "Gemma3ForCausalLM"
    genai_type = "gemma3_text"
    norm_offset = 1.0
    gguf_biased = ()
    gguf_windows = True
    arch_type = Gemma3Arch

    def layer(self, arch: Arch, index: int) -> tuple[Op, ...]:
        return (
            self.norm(arch, "attn_norm", "input_layernorm"),
            self.attention(arch, index),
            Residual(post_norm=self.norm(arch, "post_attention_norm", "post_attention_layernorm")),
            self.norm(arch, "ffn_norm", "pre_feedforward_layernorm"),
            self.mlp(arch, index),
            Residual(post_norm=self.norm(arch, "post_ffw_norm", "post_feedforward_layernorm")),
        )

    def norm(self, arch: Arch, name: str, hf: str, width: int = 0) -> Norm:
        return Norm(name, hf, width or arch.hidden, arch.eps, self.norm_offset)

    def attention(self, arch: Arch, index: int) -> Attention:
        assert isinstance(arch, Gemma3Arch)
        local = index in arch.windowed
        return replace(
            super().attention(arch, index),
            rope=arch.local_rope if local else arch.rope,
            q_norm=self.norm(arch, "attn_q_norm", "self_attn.q_norm", arch.head_dim),
            k_norm=self.norm(arch, "attn_k_norm", "self_attn.k_norm", arch.head_dim),
            scale=arch.query_scalar**-0.5,
        )

    def mlp(self, arch: Arch, index: int) -> Op:
        mlp = super().mlp(arch, index)
        assert isinstance(mlp, GatedMLP)
        return replace(mlp, activation="gelu")

    def refuse(self, config: dict[str, Any]) -> None:
        facts = checked(USUAL | config, Gemma3Config, "config.json")
        activation = facts.hidden_activation or "gelu_pytorch_tanh"
        for setting, wrong in (
            (f"hidden_activation {activation!r}", activation != "gelu_pytorch_tanh"),
            ("attn_logit_softcapping", facts.attn_logit_softcapping),
            ("final_logit_softcapping", facts.final_logit_softcapping),
            ("use_bidirectional_attention", facts.use_bidirectional_attention),
        ):
            if wrong:
                raise UnsupportedError(
                    f"config.json sets {setting}, which no released Gemma 3 that writes text does "
                    "and which is not computed here; take the config.json that came with the "
                    "weights, or run the checkpoint in transformers."
                )

    def sizes(self, config: dict[str, Any]) -> dict[str, Any]:
        config = USUAL | config
        facts = checked(config, Gemma3Config, "config.json")
        full, local = ropes_of(config)
        sizes = super().sizes(config | {"rope_scaling": full})
        return sizes | {
            "local_rope": Rope.from_config(config | {"rope_scaling": local}),
            "query_scalar": float(facts.query_pre_attn_scalar),
            "embedding_scale": math.sqrt(sizes["hidden"]),
        }

    def config(self, arch: Arch) -> dict[str, Any]:
        assert isinstance(arch, Gemma3Arch)
        found = super().config(arch)
        del found["hidden_act"]
        local = rope_settings(arch.local_rope, arch.head_dim)
        scalar = arch.query_scalar
        return found | {
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": int(scalar) if scalar.is_integer() else scalar,
            "sliding_window": arch.window or USUAL["sliding_window"],
            "layer_types": [SLIDING if i in arch.windowed else FULL for i in range(arch.layers)],
            "rope_parameters": {FULL: found["rope_parameters"], SLIDING: local},
            "rope_local_base_freq": arch.local_rope.theta,
        }

    def windows(self, config: dict[str, Any], layers: int) -> dict[str, Any]:
        every = config.get("sliding_window_pattern") or PATTERN
        local = with_window(every, layers)
        usual = [SLIDING if index in local else FULL for index in range(layers)]
        kinds = config.get("layer_types") or usual
        window = config["sliding_window"]
        return window_config.windows(config | {"layer_types": kinds}, layers, window, bool)

    def biases(self, config: dict[str, Any]) -> tuple[str, ...]:
        attention = ("attn_q", "attn_k", "attn_v", "attn_output")
        return attention if config.get("attention_bias") else ()

    def notes(self, config: dict[str, Any]) -> tuple[str, ...]:
        beside = {key: config[key] for key in (ORIGINAL,) if key in config}
        found = [Rope.notes(beside | {"rope_scaling": one}) for one in ropes_of(config)]
        return tuple(dict.fromkeys(note for notes in found for note in notes))

    def gguf_keys(self, arch: Arch) -> dict[str, Any]:
        assert isinstance(arch, Gemma3Arch)
        self.check_llamacpp(arch)
        keys: dict[str, Any] = {"rope.freq_base_swa": arch.local_rope.theta}
        if arch.window is not None:
            keys["attention.sliding_window"] = arch.window
            keys["attention.sliding_window_pattern"] = period(arch.windowed, arch.layers)
        return super().gguf_keys(arch) | {f"{self.name}.{key}": v for key, v in keys.items()}

    def check_llamacpp(self, arch: Gemma3Arch) -> None:
        """Raise UnsupportedError for what llama.cpp computes otherwise, whatever a GGUF says."""
        scalar = llamacpp_scalar(arch.layers, arch.hidden, arch.heads, arch.head_dim)
        wrong = None
        if arch.query_scalar != scalar:
            wrong = f"query_pre_attn_scalar {arch.query_scalar:g}, and llama.cpp takes {scalar:g}"
        elif arch.window is not None and period(arch.windowed, arch.layers) is None:
            wrong = "layers with a window in no order of one in so many, which llama.cpp needs"
        elif arch.local_rope.rope_type != "default" or arch.rope.rope_type == "yarn":
            kinds = f"{arch.rope.rope_type} and {arch.local_rope.rope_type}"
            wrong = f"rope scalings {kinds}, and llama.cpp has a linear one in {FULL} alone"
        if wrong:
            raise UnsupportedError(f"config.json has {wrong} in a gemma3; write an ONNX folder.")

    def gguf_sizes(self, facts: GgufFacts) -> dict[str, Any]:
        keys = facts.keys
        cap = keys.metadata.get(f"{self.name}.final_logit_softcapping", 0)
        if not isinstance(cap, int | float) or cap:
            need = "a soft cap of logits is not computed here"
            raise keys.wrong("final_logit_softcapping", cap, need, UnsupportedError)
        sizes = super().gguf_sizes(facts)
        window = keys.size("attention.sliding_window")
        every = keys.count("attention.sliding_window_pattern", PATTERN)
        layers = sizes["layers"]
        base = {"rope.freq_base_swa": BASES[SLIDING][1]} | keys.section("rope.freq_base_swa")
        scalar = llamacpp_scalar(layers, sizes["hidden"], sizes["heads"], sizes["head_dim"])
        return sizes | {
            "local_rope": Rope.from_gguf(
                {"rope.freq_base": base["rope.freq_base_swa"]}, sizes["context"]
            ),
            "window": window,
            "windowed": with_window(every, layers) if window else (),
            "query_scalar": scalar,
            "embedding_scale": math.sqrt(sizes["hidden"]),
        }


def ropes_of(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rope settings of layers that see all tokens, and of those with a window.

    As in transformers, `rope_scaling` counts in the former, whatever rope_parameters say.
    Raises UnsupportedError for rope_parameters of no kind of layer, which transformers loses.
    """
    by_kind = config.get("rope_parameters") or {}
    if by_kind and not by_kind.keys() & BASES.keys():
        raise UnsupportedError(
            f"config.json has rope_parameters without {' and '.join(BASES)}, which transformers "
            "then does not read; write them for each kind of layer."
        )
    found = []
    for kind, (key, usual) in BASES.items():
        more = (config.get("rope_scaling") or {}) if kind == FULL else {}
        base = {"rope_theta": config.get(key) or usual}
        found.append(base | (by_kind.get(kind) or {}) | more)
    return found[0], found[1]


def with_window(every: int, layers: int) -> tuple[int, ...]:
    """The layers with a window where one in `every`, the last of them, has none."""
    return tuple(i for i in range(layers) if (i + 1) % every)


def period(windowed: tuple[int, ...], layers: int) -> int | None:
    """The `every` of `with_window` that gives these layers; None where there is none."""
    return next((n for n in range(1, layers + 2) if with_window(n, layers) == windowed), None)


def llamacpp_scalar(layers: int, hidden: int, heads: int, head_dim: int) -> float:
    """What llama.cpp divides scores by the root of: it knows the size by the number of layers."""
    return float(hidden // heads if layers == WIDE_LAYERS else head_dim)
