"""Every fact about a model family, in one file a family; adding a family is adding a file.

Runtime names are GGUF's ("blk.3.attn_q.weight") whatever the container: rules, reports and errors
use them. What a decoder layer computes is data: see layer.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np

from runtime.archs.layer import Attention, GatedMLP, LayerSpec, Linear, Norm, Op, Residual, Shape
from runtime.errors import CorruptFileError, UnsupportedError
from runtime.gguf_keys import GgufKeys
from runtime.limits import check_gguf, check_sizes, refuse_settings
from runtime.rope import Rope

FAMILIES: dict[str, "Family"] = {}
"""Every family by its GGUF architecture name; filled by the class lines."""

EMBEDDING = "token_embd.weight"
OUTPUT_NORM = "output_norm.weight"
OUTPUT = "output.weight"
HF_GLOBALS = {
    EMBEDDING: "model.embed_tokens.weight",
    OUTPUT_NORM: "model.norm.weight",
    OUTPUT: "lm_head.weight",
}
"""Tensors outside the layers -> their names in a Hugging Face checkpoint."""


@dataclass(frozen=True)
class Arch:
    """The sizes of one model; a family with facts of its own adds fields in a subclass."""

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
        return EMBEDDING if self.tied else OUTPUT

    @property
    def output_norm(self) -> Norm:
        """The norm before the head."""
        return Norm("output_norm", "model.norm", self.hidden, self.eps)

    def layer(self, index: int) -> LayerSpec:
        """What decoder layer `index` computes."""
        return _layer(self, index)

    def precise(self, name: str) -> bool:
        """Whether a weight stays F32 unless a rule says otherwise; see `Linear.precise`."""
        parts = name.split(".")
        return parts[0] == "blk" and self.layer(int(parts[1])).linears[parts[2]].precise

    def shapes(self) -> dict[str, Shape]:
        """Every tensor of the model, in file order: runtime name -> shape."""
        return dict(_shapes(self))

    def hf_names(self) -> dict[str, str]:
        """Runtime name of every tensor of the model -> its name in a Hugging Face checkpoint."""
        names = {name: HF_GLOBALS[name] for name in HF_GLOBALS if name in _shapes(self)}
        for index in range(self.layers):
            for name, hf in self.layer(index).hf_names.items():
                names[f"blk.{index}.{name}"] = f"model.layers.{index}.{hf}"
        return {name: names[name] for name in _shapes(self)}


@cache
def _layer(arch: Arch, index: int) -> LayerSpec:
    return LayerSpec(FAMILIES[arch.family].layer(arch, index))


@cache
def _shapes(arch: Arch) -> dict[str, Shape]:
    out: dict[str, Shape] = {EMBEDDING: (arch.vocab, arch.hidden)}
    for index in range(arch.layers):
        out |= {f"blk.{index}.{name}": s for name, s in arch.layer(index).shapes.items()}
    out[OUTPUT_NORM] = (arch.hidden,)
    if not arch.tied:
        out[OUTPUT] = (arch.vocab, arch.hidden)
    return out


class Family:
    """Facts of one family; the defaults are those of a Llama-like dense decoder."""

    name: ClassVar[str]
    """GGUF's `general.architecture`."""
    hf_types: ClassVar[tuple[str, ...]]
    """`model_type` in config.json."""
    hf_class: ClassVar[str]
    """The transformers class, for `architectures`."""
    biased: ClassVar[tuple[str, ...]] = ()
    theta: ClassVar[float] = 10000.0
    """Base of the rope's frequencies where config.json has none."""
    gguf_rope_factors: ClassVar[bool] = False
    """Whether GGUF readers of the family divide frequencies by a tensor (Llama 3.1's scaling)."""
    gguf_head_dim: ClassVar[bool] = True
    """Whether llama.cpp takes heads of a width of their own."""
    gguf_biased: ClassVar[tuple[str, ...] | None] = None
    """Linears whose biases llama.cpp reads; None = all."""
    gguf_ffn_scales: ClassVar[bool] = False
    """Whether llama.cpp multiplies the feed-forward, too, by the scales of NVFP4."""
    arch_type: ClassVar[type[Arch]] = Arch

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:  # what several families share has none
            FAMILIES[cls.name] = cls()

    def layer(self, arch: Arch, index: int) -> tuple[Op, ...]:
        """The ops of decoder layer `index`, in order."""
        return (
            Norm("attn_norm", "input_layernorm", arch.hidden, arch.eps),
            self.attention(arch, index),
            Residual(),
            Norm("ffn_norm", "post_attention_layernorm", arch.hidden, arch.eps),
            self.mlp(arch, index),
            Residual(),
        )

    def attention(self, arch: Arch, index: int) -> Attention:
        """The attention of layer `index`."""
        q, kv = arch.heads * arch.head_dim, arch.kv_heads * arch.head_dim
        return Attention(
            q=self.linear(arch, "attn_q", "self_attn.q_proj", q, arch.hidden),
            k=self.linear(arch, "attn_k", "self_attn.k_proj", kv, arch.hidden),
            v=self.linear(arch, "attn_v", "self_attn.v_proj", kv, arch.hidden),
            output=self.linear(arch, "attn_output", "self_attn.o_proj", arch.hidden, q),
            heads=arch.heads,
            kv_heads=arch.kv_heads,
            head_dim=arch.head_dim,
            rope=arch.rope,
            rope_channels=arch.head_dim,
        )

    def mlp(self, arch: Arch, index: int) -> Op:
        """What follows the attention in layer `index`."""
        return GatedMLP(
            gate=self.linear(arch, "ffn_gate", "mlp.gate_proj", arch.ffn, arch.hidden),
            up=self.linear(arch, "ffn_up", "mlp.up_proj", arch.ffn, arch.hidden),
            down=self.linear(arch, "ffn_down", "mlp.down_proj", arch.hidden, arch.ffn),
        )

    def linear(self, arch: Arch, name: str, hf: str, outputs: int, inputs: int) -> Linear:
        """A linear, with a bias where the sizes say so."""
        return Linear(name, hf, outputs, inputs, bias=name in arch.biased)

    def arch(self, config: dict[str, Any]) -> Arch:
        """Sizes from a HF config.json.

        Raises EdgequantError naming a missing key or an unsupported setting.
        """
        refuse_settings(config)
        try:
            return check_sizes(self.arch_type(**self.sizes(config)))
        except KeyError as missing:
            raise CorruptFileError(
                f"config.json has no {missing.args[0]!r}; take the config.json that came with the "
                "weights."
            ) from None

    def notes(self, config: dict[str, Any]) -> tuple[str, ...]:
        """What of config.json is left out, one sentence each."""
        return Rope.notes(config)

    def sizes(self, config: dict[str, Any]) -> dict[str, Any]:
        """The fields of `arch_type` from a HF config.json. Raises KeyError for a missing key."""
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        rope = Rope.from_config(config, self.theta)
        return {
            "family": self.name,
            "vocab": int(config["vocab_size"]),
            "hidden": hidden,
            "ffn": int(config["intermediate_size"]),
            "layers": int(config["num_hidden_layers"]),
            "heads": heads,
            "kv_heads": int(config.get("num_key_value_heads") or heads),
            "head_dim": int(config.get("head_dim") or hidden // heads),
            "eps": float(config["rms_norm_eps"]),
            "context": rope.context(int(config["max_position_embeddings"])),
            "tied": bool(config.get("tie_word_embeddings", False)),
            "rope": rope,
            "biased": self.biases(config),
        }

    def biases(self, config: dict[str, Any]) -> tuple[str, ...]:
        """Linears of a layer that have a bias."""
        return self.biased

    def gguf_rows(self, arch: Arch, name: str) -> np.ndarray | None:
        """Order in which GGUF stores a tensor's rows, as indices into ours; None = the same."""
        return None

    def gguf_keys(self, arch: Arch) -> dict[str, Any]:
        """GGUF metadata for these sizes: key -> int, float or str.

        Raises UnsupportedError for what the family's GGUF readers would not compute.
        """
        check_gguf(self, arch)
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
        return self.arch_type(**self.gguf_sizes(metadata, shapes, factors))

    def gguf_sizes(
        self,
        metadata: Mapping[str, Any],
        shapes: Mapping[str, tuple[int, ...]],
        factors: tuple[float, ...] | None = None,
    ) -> dict[str, Any]:
        """The fields of `arch_type`; arguments and errors as in `gguf_arch`."""
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
                raise keys.wrong(key, found, f"only {needed} is supported here")
        if layers > len(shapes):  # before a name is made for every layer
            raise keys.wrong("block_count", layers, f"the file has {len(shapes)} tensors")
        fields: dict[str, Any] = {
            "family": self.name,
            "vocab": shapes.get(EMBEDDING, (0,))[0],
            "hidden": hidden,
            "ffn": keys.count("feed_forward_length"),
            "layers": layers,
            "heads": heads,
            "kv_heads": keys.count("attention.head_count_kv", heads),
            "head_dim": head_dim,
            "eps": keys.number("attention.layer_norm_rms_epsilon"),
            "context": context,
            "tied": OUTPUT not in shapes,
            "rope": Rope.from_gguf(keys.section("rope."), context, factors),
        }
        linears = self.arch_type(**fields).layer(0).linears
        return fields | {"biased": tuple(n for n in linears if f"blk.0.{n}.bias" in shapes)}


def family_of(config: dict[str, Any]) -> Family:
    """The family of a HF config.json. Raises EdgequantError naming the known model types."""
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
    raise UnsupportedError(f"unknown architecture {kind!r} in config.json; supported: {known}.")
