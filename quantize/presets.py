"""Which type each tensor gets: llama.cpp's mixtures for GGUF, and ours for ONNX.

GGUF presets follow llama.cpp's `llama_tensor_get_type` for dense models with an importance matrix,
so that "Q4_K_M" here is the same mixture, tensor by tensor, as the file of that name made by
llama-quantize (tests/quantize/golden_types.json is what it does).
"""

from collections.abc import Callable
from dataclasses import dataclass

from export import CONTAINERS
from runtime.archs import Arch
from runtime.blocks import BLOCKS, Block


@dataclass(frozen=True)
class Spot:
    """Where in the model a linear stands."""

    name: str
    """"attn_v", "ffn_down", "output", "token_embd", ..."""
    layer: int
    layers: int
    grouped: int
    """Query heads that share a key-value head."""
    big: bool
    """80 layers, as in the 70B class."""

    @property
    def sensitive(self) -> bool:
        """The first and last eighth of the layers, and every third between."""
        eighth = self.layers // 8
        return (
            self.layer < eighth
            or self.layer >= 7 * self.layers // 8
            or (self.layer - eighth) % 3 == 2
        )

    @property
    def early(self) -> bool:
        """The first eighth of the layers."""
        return self.layer < self.layers // 8


Exceptions = dict[str, Callable[[Spot], str | None]]


@dataclass(frozen=True)
class Preset:
    """A base type and, for some linears, a rule that gives another type or None."""

    base: str
    exceptions: Exceptions
    head: str
    """Type of the output head, which is the embedding itself when they are tied."""
    embedding: str | None = None
    """Type of an embedding that is not the head; None = base."""

    def choose(self, spot: Spot) -> str:
        """Type of one linear of a decoder layer."""
        rule = self.exceptions.get(spot.name)
        found = (rule(spot) if rule else None) or self.base
        if spot.big and spot.name == "attn_v" and found in ("Q3_K", "Q4_K"):
            return "Q5_K"  # 8 heads share it: it is small and counts much
        return found


def _gguf(base: str, head: str = "Q6_K", **exceptions: Callable[[Spot], str | None]) -> Preset:
    return Preset(base, exceptions, head)


def _all(kind: str) -> Callable[[Spot], str | None]:
    return lambda spot: kind


def _more(kind: str) -> Callable[[Spot], str | None]:
    return lambda spot: kind if spot.sensitive else None


def _early(kind: str) -> Callable[[Spot], str | None]:
    return lambda spot: kind if spot.early else None


GGUF: dict[str, Preset] = {
    "Q2_K": _gguf(
        "Q2_K",
        attn_v=lambda s: "Q4_K" if s.grouped >= 4 else "Q3_K",
        attn_output=_all("Q3_K"),
        ffn_down=_all("Q3_K"),
    ),
    "Q3_K_S": _gguf("Q3_K"),
    "Q3_K_M": _gguf(
        "Q3_K",
        attn_v=lambda s: "Q5_K" if s.layer < 2 else "Q4_K",
        attn_output=_all("Q4_K"),
        ffn_down=lambda s: "Q5_K" if s.layer < s.layers // 16 else "Q4_K",
    ),
    "Q3_K_L": _gguf("Q3_K", attn_v=_all("Q5_K"), attn_output=_all("Q5_K"), ffn_down=_all("Q5_K")),
    "Q4_0": _gguf("Q4_0", ffn_down=_early("Q4_1")),
    "Q4_1": _gguf("Q4_1"),
    "Q4_K_S": _gguf(
        "Q4_K", attn_v=lambda s: "Q5_K" if s.layer < 4 else None, ffn_down=_early("Q5_K")
    ),
    "Q4_K_M": _gguf("Q4_K", attn_v=_more("Q6_K"), ffn_down=_more("Q6_K")),
    "Q5_0": _gguf("Q5_0", ffn_down=_early("Q5_1")),
    "Q5_1": _gguf("Q5_1"),
    "Q5_K_S": _gguf("Q5_K"),
    "Q5_K_M": _gguf("Q5_K", attn_v=_more("Q6_K"), ffn_down=_more("Q6_K")),
    "Q6_K": _gguf("Q6_K"),
    "Q8_0": _gguf("Q8_0", head="Q8_0"),
    "IQ4_NL": _gguf("IQ4_NL", attn_v=lambda s: "Q5_K" if s.grouped >= 4 else None),
    "F16": _gguf("F16", head="F16"),
    "BF16": _gguf("BF16", head="BF16"),
    "F32": _gguf("F32", head="F32"),
}


def _onnx(base: str, head: str = "INT8_32") -> Preset:
    return Preset(base, {}, head, embedding=head)


ONNX: dict[str, Preset] = {
    "int4": _onnx("INT4_32"),
    "int4-64": _onnx("INT4_64"),
    "int4-128": _onnx("INT4_128"),
    "int4-sym": _onnx("INT4_32_SYM"),
    "int4-64-sym": _onnx("INT4_64_SYM"),
    "int4-128-sym": _onnx("INT4_128_SYM"),
    "int8": _onnx("INT8_32"),
    "fp32": _onnx("F32", head="F32"),
}

PRESETS: dict[str, dict[str, Preset]] = {"gguf": GGUF, "onnx": ONNX}
"""Container -> preset name -> mixture."""


def narrow(kind: str, cols: int, container: str) -> Block:
    """The type itself, or the next best one whose blocks divide a row of `cols` weights."""
    while not BLOCKS[kind].fits(cols):
        kind = BLOCKS[kind].narrower or CONTAINERS[container].widest
    return BLOCKS[kind]


def spot(arch: Arch, name: str) -> Spot:
    """Where the tensor "blk.3.attn_v.weight" stands."""
    _, layer, part, _ = name.split(".")
    return Spot(part, int(layer), arch.layers, arch.heads // arch.kv_heads, arch.layers == 80)


def preset_type(preset: Preset, arch: Arch, name: str) -> str:
    """The type that a preset gives to a 2-D weight, before narrowing."""
    if name == arch.head:
        return preset.head
    if name == "token_embd.weight":
        return preset.embedding or preset.base
    return preset.choose(spot(arch, name))
