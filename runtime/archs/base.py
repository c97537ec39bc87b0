"""Every fact about a model family, in one file a family; adding a family is adding a file.

Runtime names are GGUF's ("blk.3.attn_q.weight") whatever the container: rules, reports and errors
use them. What a decoder layer computes is data: see layer.py.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from runtime import window_config
from runtime.archs.gguf_sizes import GgufSizes
from runtime.archs.layer import Attention, GatedMLP, LayerSpec, Linear, Norm, Op, Residual, Shape
from runtime.errors import CorruptFileError, UnsupportedError
from runtime.limits import check_sizes, refuse_settings
from runtime.rope import Rope

FAMILIES: dict[str, "Family"] = {}
"""Every family by its name; filled by the class lines."""

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
    window: int | None = None
    """Keys that a query of a windowed layer sees, its own the last."""
    windowed: tuple[int, ...] = ()
    """Layers with the window; the others see all before them."""

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


class Family(GgufSizes):
    """Facts of one family; the defaults are those of a Llama-like dense decoder."""

    name: ClassVar[str]
    hf_types: ClassVar[tuple[str, ...]]
    """`model_type` in config.json."""
    hf_class: ClassVar[str]
    """The transformers class, for `architectures`."""
    hf_auto: ClassVar[str] = "AutoModelForCausalLM"
    """The class of transformers that opens any of its kind."""
    hf_beside: ClassVar[tuple[str, ...]] = ()
    """What the names of other parts of the model begin with, such as a vision tower's."""
    genai_type: ClassVar[str | None] = None
    """onnxruntime-genai's name of such a decoder; None = `name`."""
    biased: ClassVar[tuple[str, ...]] = ()
    theta: ClassVar[float] = 10000.0
    """Base of the rope's frequencies where config.json has none."""
    arch_type: ClassVar[type[Arch]] = Arch

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:  # what several families share has none
            if "architecture" not in cls.__dict__:
                cls.architecture = cls.name
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
            window=arch.window if index in arch.windowed else None,
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
            **self.windows(config, int(config["num_hidden_layers"])),
        }

    def windows(self, config: dict[str, Any], layers: int) -> dict[str, Any]:
        """The fields `window` and `windowed` of Arch, where there are such layers.

        Raises EdgequantError for what transformers does not compute.
        """
        window_config.refuse(config, layers)
        return {}

    def biases(self, config: dict[str, Any]) -> tuple[str, ...]:
        """Linears of a layer that have a bias."""
        return self.biased


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
