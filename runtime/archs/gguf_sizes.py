"""What GGUF says of a family: the keys of its sizes, written and read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from runtime.gguf_keys import GgufKeys
from runtime.limits import check_causal, check_gguf
from runtime.rope import Rope

if TYPE_CHECKING:
    from runtime.archs.base import Arch


@dataclass(frozen=True)
class GgufFacts:
    """What sizes are read from."""

    keys: GgufKeys
    shapes: Mapping[str, tuple[int, ...]]
    """Of every tensor."""
    factors: tuple[float, ...] | None = None
    """What frequencies of the rope are divided by, where the file says."""
    unused_factors: tuple[float, ...] | None = None
    """Those of the second of `gguf_rope_tables`."""


ROPE_FACTORS = "rope_freqs.weight"
"""Tensor by which frequencies are divided (Llama 3.1's scaling): a table, not a weight."""


class GgufSizes:
    """The half of `Family` (base.py) that knows GGUF; the defaults are those of a Llama."""

    name: ClassVar[str]
    architecture: ClassVar[str]
    """GGUF's `general.architecture`: the name, or that of a family that it passes for there."""
    gguf_rope_factors: ClassVar[bool] = False
    """Whether GGUF readers of the family divide frequencies by a tensor (Llama 3.1's scaling)."""
    gguf_head_dim: ClassVar[bool] = True
    """Whether llama.cpp takes heads of a width of their own."""
    gguf_biased: ClassVar[tuple[str, ...] | None] = None
    """Linears whose biases llama.cpp reads; None = all."""
    gguf_ffn_scales: ClassVar[bool] = False
    """Whether llama.cpp multiplies the feed-forward, too, by the scales of NVFP4."""
    gguf_joined: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Tensor of a layer -> the linears whose rows it holds, where llama.cpp wants them in one."""
    gguf_may_join: ClassVar[dict[str, tuple[str, ...]]] = {}
    """The same of tensors that other writers join, and llama.cpp reads apart as well."""
    gguf_rope_tables: ClassVar[tuple[str, ...]] = (ROPE_FACTORS,)
    """Tensors of divisors of frequencies: the one that is used, then those that are not."""
    gguf_windows: ClassVar[bool] = False
    """Whether llama.cpp hides from a query what its window does not hold."""
    arch_type: ClassVar[Any]

    def gguf_rows(self, arch: "Arch", name: str) -> np.ndarray | None:
        """Order in which GGUF stores a tensor's rows, as indices into ours; None = the same."""
        return None

    def gguf_keys(self, arch: "Arch") -> dict[str, Any]:
        """GGUF metadata for these sizes: key -> int, float, str or a list of one of these.

        Raises UnsupportedError for what the family's GGUF readers would not compute.
        """
        check_gguf(self, arch)
        keys: dict[str, Any] = {
            "vocab_size": arch.vocab,
            "context_length": self.gguf_context(arch),
            "embedding_length": arch.hidden,
            "block_count": arch.layers,
            "feed_forward_length": arch.ffn,
            "attention.head_count": arch.heads,
            "attention.head_count_kv": arch.kv_heads,
            "attention.key_length": arch.head_dim,
            "attention.value_length": arch.head_dim,
            "attention.layer_norm_rms_epsilon": arch.eps,
            "rope.dimension_count": arch.rope_channels,
        }
        keys |= arch.rope.gguf_keys()
        return {f"{self.architecture}.{key}": value for key, value in keys.items()}

    def gguf_rope(self, arch: "Arch") -> tuple[np.ndarray, ...]:
        """The values of the first of `gguf_rope_tables`, float32 each; none without a table."""
        return (arch.rope.divisors(arch.rope_channels),) if arch.rope.divided else ()

    def gguf_rotated(self, turned: int, head_dim: int) -> int:
        """Channels that rope may rotate, where a file says `turned` of each head's."""
        return head_dim

    def gguf_context(self, arch: "Arch") -> int:
        """Tokens that a GGUF computes as the model does."""
        if self.gguf_windows or not arch.windowed or arch.window is None:
            return arch.context
        return min(arch.context, arch.window)

    def gguf_arch(
        self,
        metadata: Mapping[str, Any],
        shapes: Mapping[str, tuple[int, ...]],
        factors: tuple[float, ...] | None = None,
        unused_factors: tuple[float, ...] | None = None,
    ) -> "Arch":
        """Sizes from GGUF metadata, tensor shapes and the rope factors, where the file has them.

        Raises EdgequantError naming a key that is missing or impossible.
        """
        keys = GgufKeys(metadata, self.architecture)
        return self.arch_type(**self.gguf_sizes(GgufFacts(keys, shapes, factors, unused_factors)))

    def gguf_sizes(self, facts: GgufFacts) -> dict[str, Any]:
        """The fields of `arch_type`; raises as `gguf_arch` does."""
        keys, shapes, factors = facts.keys, facts.shapes, facts.factors
        check_causal(keys)
        heads, hidden = keys.count("attention.head_count"), keys.count("embedding_length")
        head_dim = keys.count("attention.key_length", hidden // heads)
        layers, context = keys.count("block_count"), keys.count("context_length")
        turned = keys.count("rope.dimension_count", head_dim)
        rotated = self.gguf_rotated(turned, head_dim)
        for key, found, needed in (
            ("attention.value_length", keys.count("attention.value_length", head_dim), head_dim),
            ("rope.dimension_count", turned, rotated),
            ("number of rope factors", 2 * len(factors or ()), rotated if factors else 0),
        ):
            if found != needed:
                raise keys.wrong(key, found, f"only {needed} is supported here")
        if layers > len(shapes):  # before a name is made for every layer
            raise keys.wrong("block_count", layers, f"the file has {len(shapes)} tensors")
        fields: dict[str, Any] = {
            "family": self.name,
            "vocab": shapes.get("token_embd.weight", (0,))[0],
            "hidden": hidden,
            "ffn": keys.count("feed_forward_length"),
            "layers": layers,
            "heads": heads,
            "kv_heads": keys.count("attention.head_count_kv", heads),
            "head_dim": head_dim,
            "eps": keys.number("attention.layer_norm_rms_epsilon"),
            "context": context,
            "tied": "output.weight" not in shapes,
            "rope": Rope.from_gguf(keys.section("rope."), context, factors),
        }
        linears = self.arch_type(**fields).layer(0).linears
        return fields | {"biased": tuple(n for n in linears if f"blk.0.{n}.bias" in shapes)}
