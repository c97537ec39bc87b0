"""Every fact about a model family, in one file a family; adding a family is adding a file.

Runtime names are GGUF's ("blk.3.attn_q.weight") whatever the container: rules, reports and errors
use them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from runtime.errors import CorruptFileError, UnsupportedError
from runtime.gguf_keys import GgufKeys
from runtime.rope import Rope

FAMILIES: dict[str, "Family"] = {}
"""Every family by its GGUF architecture name; filled by the class lines."""

YARN_RAMP = (32.0, 1.0)
"""beta_fast and beta_slow of every yarn model in llama.cpp."""


@dataclass(frozen=True)
class Arch:
    """The sizes of one model."""

    family: str
    vocab: int
    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    context: int
    """Longest context, in tokens."""
    tied: bool
    """Whether the output head is the token embedding."""
    rope: Rope
    biased: tuple[str, ...] = ()
    """Linears of a decoder layer that have a bias, such as ("attn_q", "attn_k", "attn_v")."""

    @property
    def head(self) -> str:
        """Name of the weight that makes the logits."""
        return "token_embd.weight" if self.tied else "output.weight"


@dataclass(frozen=True)
class Stage:
    """Linears of a decoder layer that read the same input, and the op that makes that input."""

    linears: tuple[str, ...]
    before: str
    """The tensor whose output channels can take a scale of the input: a norm or a linear's rows."""


class Family:
    """Facts of one family; the defaults are those of a Llama-like dense decoder."""

    name: ClassVar[str]
    """GGUF's `general.architecture`."""
    hf_types: ClassVar[tuple[str, ...]]
    """`model_type` in config.json."""
    hf_class: ClassVar[str]
    """The transformers class, for `architectures`."""
    biased: ClassVar[tuple[str, ...]] = ()
    gguf_rope_factors: ClassVar[bool] = False
    """Whether GGUF readers of the family divide frequencies by a tensor (Llama 3.1's scaling)."""

    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(("attn_q", "attn_k", "attn_v"), before="attn_norm"),
        Stage(("attn_output",), before="attn_v"),
        Stage(("ffn_gate", "ffn_up"), before="ffn_norm"),
        Stage(("ffn_down",), before="ffn_up"),
    )
    hf_layer: ClassVar[dict[str, str]] = {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    hf_global: ClassVar[dict[str, str]] = {
        "token_embd": "model.embed_tokens",
        "output_norm": "model.norm",
        "output": "lm_head",
    }

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        FAMILIES[cls.name] = cls()

    def arch(self, config: dict[str, Any]) -> Arch:
        """Sizes from a HF config.json.

        Raises EdgequantError naming a missing key or an unsupported setting.
        """
        if config.get("use_sliding_window"):
            raise UnsupportedError(
                "config.json sets use_sliding_window; only full attention is supported: "
                "set it to false."
            )
        if (activation := config.get("hidden_act", "silu")) != "silu":
            raise UnsupportedError(
                f"config.json has hidden_act {activation!r}; only 'silu' is supported."
            )
        try:
            heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
            return Arch(
                family=self.name,
                vocab=int(config["vocab_size"]),
                hidden=hidden,
                ffn=int(config["intermediate_size"]),
                layers=int(config["num_hidden_layers"]),
                heads=heads,
                kv_heads=int(config.get("num_key_value_heads") or heads),
                head_dim=int(config.get("head_dim") or hidden // heads),
                eps=float(config["rms_norm_eps"]),
                context=int(config["max_position_embeddings"]),
                tied=bool(config.get("tie_word_embeddings", False)),
                rope=Rope.from_config(config),
                biased=self.biases(config),
            )
        except KeyError as missing:
            raise CorruptFileError(
                f"config.json has no {missing.args[0]!r}; take the config.json that came with the "
                "weights."
            ) from None

    def biases(self, config: dict[str, Any]) -> tuple[str, ...]:
        """Linears of a layer that have a bias."""
        return self.biased

    def shapes(self, arch: Arch) -> dict[str, tuple[int, ...]]:
        """Every tensor of the model, in file order: runtime name -> shape."""
        out: dict[str, tuple[int, ...]] = {"token_embd.weight": (arch.vocab, arch.hidden)}
        for layer in range(arch.layers):
            for name, shape in self.layer_shapes(arch).items():
                out[f"blk.{layer}.{name}"] = shape
        out["output_norm.weight"] = (arch.hidden,)
        if not arch.tied:
            out["output.weight"] = (arch.vocab, arch.hidden)
        return out

    def layer_shapes(self, arch: Arch) -> dict[str, tuple[int, ...]]:
        """Every tensor of one decoder layer: name within the layer -> shape."""
        q, kv = arch.heads * arch.head_dim, arch.kv_heads * arch.head_dim
        linears = {
            "attn_q": (q, arch.hidden),
            "attn_k": (kv, arch.hidden),
            "attn_v": (kv, arch.hidden),
            "attn_output": (arch.hidden, q),
            "ffn_gate": (arch.ffn, arch.hidden),
            "ffn_up": (arch.ffn, arch.hidden),
            "ffn_down": (arch.hidden, arch.ffn),
        }
        out: dict[str, tuple[int, ...]] = {"attn_norm.weight": (arch.hidden,)}
        for name, shape in linears.items():
            if name == "ffn_gate":
                out["ffn_norm.weight"] = (arch.hidden,)
            out[f"{name}.weight"] = shape
            if name in arch.biased:
                out[f"{name}.bias"] = (shape[0],)
        return out

    def hf_name(self, name: str) -> str:
        """Runtime name -> name in a HF checkpoint."""
        if name.startswith("blk."):
            _, layer, part, kind = name.split(".")
            return f"model.layers.{layer}.{self.hf_layer[part]}.{kind}"
        part, kind = name.split(".")
        return f"{self.hf_global[part]}.{kind}"

    def gguf_rows(self, arch: Arch, name: str) -> np.ndarray | None:
        """Order in which GGUF stores a tensor's rows, as indices into ours; None = the same."""
        return None

    def gguf_keys(self, arch: Arch) -> dict[str, Any]:
        """GGUF metadata for these sizes: key -> int, float or str.

        Raises EdgequantError for a rope scaling that the family's GGUF readers would not compute.
        """
        if arch.rope.divided and not self.gguf_rope_factors:
            raise UnsupportedError(
                f"GGUF has no rope scaling {arch.rope.kind!r} for {self.name}; "
                "write an ONNX folder, or take a checkpoint with yarn or no scaling."
            )
        ramp = (arch.rope.beta_fast, arch.rope.beta_slow)
        if arch.rope.kind == "yarn" and ramp != YARN_RAMP:
            raise UnsupportedError(
                f"config.json sets yarn's beta_fast and beta_slow to {ramp}, and llama.cpp takes "
                f"{YARN_RAMP} whatever a GGUF says; write an ONNX folder."
            )
        keys: dict[str, Any] = {
            "vocab_size": arch.vocab,
            "context_length": arch.context,
            "embedding_length": arch.hidden,
            "block_count": arch.layers,
            "feed_forward_length": arch.ffn,
            "attention.head_count": arch.heads,
            "attention.head_count_kv": arch.kv_heads,
            "attention.key_length": arch.head_dim,
            "attention.value_length": arch.head_dim,
            "attention.layer_norm_rms_epsilon": arch.eps,
            "rope.dimension_count": arch.head_dim,
        }
        return {f"{self.name}.{key}": v for key, v in (keys | arch.rope.gguf_keys()).items()}

    def gguf_arch(
        self,
        metadata: Mapping[str, Any],
        shapes: Mapping[str, tuple[int, ...]],
        factors: tuple[float, ...] | None = None,
    ) -> Arch:
        """Sizes from GGUF metadata, tensor shapes and the rope factors, where the file has them.

        Raises EdgequantError naming a key that is missing or impossible.
        """
        keys = GgufKeys(metadata, self.name)
        heads, hidden = keys.count("attention.head_count"), keys.count("embedding_length")
        head_dim = keys.count("attention.key_length", hidden // heads)
        layers, context = keys.count("block_count"), keys.count("context_length")
        turned = keys.count("rope.dimension_count", head_dim)
        for key, found, needed in (
            ("attention.value_length", keys.count("attention.value_length", head_dim), head_dim),
            ("rope.dimension_count", turned, head_dim),
            ("number of rope factors", 2 * len(factors or ()), head_dim if factors else 0),
        ):
            if found != needed:
                raise keys.wrong(key, found, f"only {needed} is supported here", UnsupportedError)
        if layers > len(shapes):  # before a name is made for every layer
            raise keys.wrong("block_count", layers, f"the file has {len(shapes)} tensors")
        linears = [linear for stage in self.stages for linear in stage.linears]
        return Arch(
            family=self.name,
            vocab=shapes.get("token_embd.weight", (0,))[0],
            hidden=hidden,
            ffn=keys.count("feed_forward_length"),
            layers=layers,
            heads=heads,
            kv_heads=keys.count("attention.head_count_kv", heads),
            head_dim=head_dim,
            eps=keys.number("attention.layer_norm_rms_epsilon"),
            context=context,
            tied="output.weight" not in shapes,
            rope=Rope.from_gguf(keys.section("rope."), context, factors),
            biased=tuple(name for name in linears if f"blk.0.{name}.bias" in shapes),
        )

    def hf_config(self, arch: Arch) -> dict[str, Any]:
        """A config.json for these sizes (for random checkpoints and for writers)."""
        rope: dict[str, Any] = {"rope_theta": arch.rope.theta, "rope_type": arch.rope.kind}
        if arch.rope.kind != "default":
            rope |= {
                "factor": arch.rope.factor,
                "original_max_position_embeddings": arch.rope.original_context,
            }
        if arch.rope.kind == "llama3":
            rope |= {
                "low_freq_factor": arch.rope.low_freq_factor,
                "high_freq_factor": arch.rope.high_freq_factor,
            }
        if arch.rope.kind == "yarn":
            rope |= {"beta_fast": arch.rope.beta_fast, "beta_slow": arch.rope.beta_slow}
        if arch.rope.attention_factor is not None:
            rope["attention_factor"] = arch.rope.attention_factor
        return {
            "architectures": [self.hf_class],
            "model_type": self.hf_types[0],
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
            "attention_bias": bool(arch.biased),
            "mlp_bias": "ffn_down" in arch.biased,
            "rope_theta": arch.rope.theta,
            "rope_parameters": rope,
            "rope_scaling": None if arch.rope.kind == "default" else rope,
            "torch_dtype": "bfloat16",
        }


def family_of(config: dict[str, Any]) -> Family:
    """The family of a HF config.json. Raises EdgequantError naming the known model types."""
    kind = config.get("model_type")
    for family in FAMILIES.values():
        if kind in family.hf_types:
            return family
    known = ", ".join(t for family in FAMILIES.values() for t in family.hf_types)
    raise UnsupportedError(f"unknown architecture {kind!r} in config.json; supported: {known}.")
