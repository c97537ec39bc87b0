"""Every fact about a model family, in one file a family; adding a family is adding a file.

Runtime names are GGUF's ("blk.3.attn_q.weight") whatever the container: rules, reports and errors
use them. What a decoder layer computes is data: see layer.py.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from runtime import long_context, window_config
from runtime.archs.gguf_sizes import GgufSizes
from runtime.archs.heads import EMBEDDING, HF_GLOBALS, OUTPUT, OUTPUT_NORM, ScoreHead, score_head
from runtime.archs.hf_sizes import HfSizes
from runtime.archs.layer import Attention, GatedMLP, LayerSpec, Linear, Norm, Op, Residual, Shape
from runtime.errors import CorruptFileError
from runtime.limits import check_sizes, refuse_settings
from runtime.rope import Rope

FAMILIES: dict[str, "Family"] = {}
"""Every family by its name; filled by the class lines."""


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
    embedding_scale: float = 1.0
    """What the embedding's rows are multiplied by before the first layer."""
    window: int | None = None
    """Keys that a query of a windowed layer sees, its own the last."""
    windowed: tuple[int, ...] = ()
    """Layers with the window; the others see all before them."""
    score_head: ScoreHead | None = None
    """What it has in place of a head that makes logits; None for a language model."""

    @property
    def head(self) -> str:
        """Name of the weight that makes the logits, or the scores."""
        return self.score_head.output if self.score_head else EMBEDDING if self.tied else OUTPUT

    @property
    def own_head(self) -> bool:
        """Whether a weight of its own makes the logits."""
        return not self.tied and self.score_head is None

    @property
    def outputs(self) -> int:
        """Numbers that the head writes for a token."""
        return self.score_head.labels if self.score_head else self.vocab

    @property
    def rope_channels(self) -> int:
        """The first channels of each head, which rope rotates."""
        return self.head_dim

    @property
    def output_norm(self) -> Norm:
        """The norm before the head."""
        offset = FAMILIES[self.family].norm_offset
        return Norm("output_norm", "model.norm", self.hidden, self.eps, offset)

    def norms(self) -> dict[str, Norm]:
        """Every norm of the model by the name of its weight."""
        found = {f"{self.output_norm.name}.weight": self.output_norm}
        for index in range(self.layers):
            for part in self.layer(index).parts:
                if isinstance(part, Norm):
                    found[f"blk.{index}.{part.name}.weight"] = part
        return found

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
        names = {name: HF_GLOBALS.get(name, name) for name in _shapes(self)}
        for index in range(self.layers):
            for name, hf in self.layer(index).hf_names.items():
                names[f"blk.{index}.{name}"] = f"model.layers.{index}.{hf}"
        return names

    def hf_rows(self) -> dict[str, tuple[int, int]]:
        """Weights that a Hugging Face checkpoint stores with others as one array: runtime name ->
        first row in it, and the rows of all; see `Linear.rows`."""
        return {
            f"blk.{index}.{name}.weight": linear.rows
            for index in range(self.layers)
            for name, linear in self.layer(index).linears.items()
            if linear.rows
        }


@cache
def _layer(arch: Arch, index: int) -> LayerSpec:
    return LayerSpec(FAMILIES[arch.family].layer(arch, index))


@cache
def _shapes(arch: Arch) -> dict[str, Shape]:
    out: dict[str, Shape] = {EMBEDDING: (arch.vocab, arch.hidden)}
    for index in range(arch.layers):
        out |= {f"blk.{index}.{name}": s for name, s in arch.layer(index).shapes.items()}
    out[OUTPUT_NORM] = (arch.hidden,)
    if arch.score_head:
        out |= arch.score_head.shapes
    elif arch.own_head:
        out[OUTPUT] = (arch.vocab, arch.hidden)
    return out


class Family(GgufSizes, HfSizes):
    """Facts of one family; the defaults are those of a Llama-like dense decoder."""

    name: ClassVar[str]
    hf_types: ClassVar[tuple[str, ...]]
    """`model_type` in config.json."""
    hf_keys: ClassVar[tuple[str, ...]] = ()
    """Keys of config.json that not every family reads."""
    hf_class: ClassVar[str]
    """The transformers class, for `architectures`."""
    hf_auto: ClassVar[str] = "AutoModelForCausalLM"
    """The class of transformers that opens any of its kind."""
    hf_beside: ClassVar[tuple[str, ...]] = ()
    """What the names of other parts of the model begin with, such as a vision tower's."""
    sees: ClassVar[bool] = False
    """Whether its vision tower is run here (runtime/vision), and not left out."""
    placeholders: ClassVar[tuple[str, ...]] = ()
    """Tokens that stand for what is no text: an image, a video."""
    genai_type: ClassVar[str | None] = None
    """onnxruntime-genai's name of such a decoder; None = `name`."""
    genai_sees: ClassVar[str | None] = None
    """Its name of such a model with the vision tower."""
    biased: ClassVar[tuple[str, ...]] = ()
    norm_offset: ClassVar[float] = 0.0
    """See `Norm.offset`."""
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
            rope_channels=arch.rope_channels,
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
        self.refuse(config)
        try:
            return check_sizes(self.arch_type(**self.sizes(config)))
        except KeyError as missing:
            raise CorruptFileError(
                f"config.json has no {missing.args[0]!r}; take the config.json that came with the "
                "weights."
            ) from None

    def refuse(self, config: dict[str, Any]) -> None:
        """Raise EdgequantError for a setting that the family does not compute."""
        refuse_settings(config)

    def notes(self, config: dict[str, Any]) -> tuple[str, ...]:
        """What of config.json is left out, one sentence each."""
        context = self.positions(config, Rope.from_config(config, self.theta))
        return (*Rope.notes(config), *long_context.notes(config, context))

    def positions(self, config: dict[str, Any], rope: Rope) -> int:
        """Tokens that the positions of a config.json reach."""
        return rope.context(int(config["max_position_embeddings"]))

    def sizes(self, config: dict[str, Any]) -> dict[str, Any]:
        """The fields of `arch_type` from a HF config.json. Raises KeyError for a missing key."""
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        rope, scores = Rope.from_config(config, self.theta), score_head(config)
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
            "context": long_context.plain_context(config, self.positions(config, rope)),
            "tied": bool(config.get("tie_word_embeddings", False)) and scores is None,
            "rope": rope,
            "biased": self.biases(config),
            "score_head": scores,
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
