"""Sizes that do not go together, and what llama.cpp would not compute: refused before any work."""

from typing import TYPE_CHECKING, Any

from runtime.errors import CorruptFileError, UnsupportedError

if TYPE_CHECKING:
    from runtime.archs.base import Arch
    from runtime.archs.gguf_sizes import GgufSizes
    from runtime.gguf_keys import GgufKeys

YARN_RAMP = (32.0, 1.0)
"""beta_fast and beta_slow of every yarn model in llama.cpp."""


def check_sizes(arch: "Arch") -> "Arch":
    """The sizes, when they go together. Raises CorruptFileError otherwise."""
    wrong = None
    if arch.heads % arch.kv_heads:
        wrong = f"{arch.heads} attention heads do not share {arch.kv_heads} key-value heads"
    elif arch.head_dim < 2 or arch.head_dim % 2:
        wrong = f"heads of {arch.head_dim} channels cannot be rotated by pairs"
    if wrong:
        raise CorruptFileError(
            f"config.json: {wrong}; take the config.json that came with the weights."
        )
    return arch


def refuse_settings(config: dict[str, Any]) -> None:
    """Raise UnsupportedError for a setting of config.json that no family here computes."""
    if config.get("is_causal") is False:
        raise UnsupportedError(
            "config.json sets is_causal to false, so that tokens see those after them; only causal "
            "attention is supported: run it with the code that came with the model."
        )
    if (activation := config.get("hidden_act", "silu")) != "silu":
        raise UnsupportedError(
            f"config.json has hidden_act {activation!r}; only 'silu' is supported."
        )


def check_causal(keys: "GgufKeys") -> None:
    """Raise UnsupportedError for a GGUF whose tokens see those after them, as llama.cpp obeys."""
    if not keys.flag("attention.causal", True):
        raise UnsupportedError(
            f"the GGUF sets {keys.family}.attention.causal to false, so that tokens see those "
            "after them; only causal attention is supported: run it with llama.cpp's own programs."
        )


def check_gguf(family: "GgufSizes", arch: "Arch") -> None:
    """Raise UnsupportedError for a head, biases or a rope that the family's readers leave out."""
    if arch.score_head:
        # tried: no cls.output of a qwen2 or llama is loaded, and one label of a qwen3 is always 1
        raise UnsupportedError(
            "llama.cpp loads no such head as this model scores texts with, or computes another; "
            "write an ONNX folder (--to onnx:int4), which onnxruntime and `quantize score` run."
        )
    for name in arch.biased:
        if family.gguf_biased is not None and name not in family.gguf_biased:
            raise UnsupportedError(
                f"llama.cpp reads no bias of {name} in a {family.name}; write an ONNX folder."
            )
    if arch.rope.divided and not family.gguf_rope_factors:
        raise UnsupportedError(
            f"GGUF has no rope scaling {arch.rope.rope_type!r} for {family.name}; "
            "write an ONNX folder, or take a checkpoint with yarn or no scaling."
        )
    if arch.rope.rope_type == "yarn" and not arch.rope.truncate:
        raise UnsupportedError(
            "config.json sets yarn's truncate to false, and llama.cpp rounds the ends of the "
            "ramp whatever a GGUF says; write an ONNX folder."
        )
    ramp = (arch.rope.beta_fast, arch.rope.beta_slow)
    if arch.rope.rope_type == "yarn" and ramp != YARN_RAMP:
        raise UnsupportedError(
            f"config.json sets yarn's beta_fast and beta_slow to {ramp}, and llama.cpp takes "
            f"{YARN_RAMP} whatever a GGUF says; write an ONNX folder."
        )
    if not family.gguf_head_dim and arch.heads * arch.head_dim != arch.hidden:
        raise UnsupportedError(
            f"llama.cpp opens a {family.name} only where heads times head_dim is the hidden size "
            f"({arch.heads} x {arch.head_dim} is not {arch.hidden}); write an ONNX folder."
        )
