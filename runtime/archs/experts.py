"""Decoders whose feed-forward is a mixture of experts, in some layers or in all.

No family by itself: qwen2moe.py and qwen3moe.py are.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from msgspec import Struct

from runtime import window_config
from runtime.archs.base import Arch, Family
from runtime.archs.gguf_sizes import GgufFacts
from runtime.archs.layer import GatedMLP, Linear, MoE, Op
from runtime.errors import CorruptFileError, UnsupportedError
from runtime.json_files import checked
from runtime.json_types import Counted, Id, Size

ONNX = "write an ONNX folder instead"
"""The way out where GGUF cannot say a model."""


class MoEConfig(Struct, kw_only=True):
    """What config.json says of experts."""

    num_experts: Counted | None = None
    num_local_experts: Counted | None = None
    num_experts_per_tok: Size
    moe_intermediate_size: Size
    shared_expert_intermediate_size: Size | None = None
    decoder_sparse_step: Size = 1
    """One layer in so many, the last of them, has experts."""
    mlp_only_layers: list[Id] | None = None
    norm_topk_prob: bool | None = None
    qkv_bias: bool | None = None


@dataclass(frozen=True)
class MoEArch(Arch):
    """Sizes of a model with experts; `ffn` is that of a dense layer."""

    experts: int = 1
    top_k: int = 1
    """Experts that a token goes through."""
    expert_ffn: int = 1
    shared_ffn: int = 0
    """Of the expert that every token goes through; 0 = there is none."""
    normalized: bool = False
    """Whether the weights of the chosen experts are made to sum to 1."""
    dense: tuple[int, ...] = ()
    """Layers with an MLP in place of experts."""


class MoEFamily(Family):
    """What families with experts share."""

    arch_type = MoEArch
    genai_type = "decoder"
    hf_keys: ClassVar[tuple[str, ...]] = (*MoEConfig.__struct_fields__, *window_config.KEYS)
    hf_experts: ClassVar[tuple[str, ...]] = ("num_experts",)
    """Keys of config.json that have the number of experts, the one that counts first."""
    gguf_normalized: ClassVar[bool]
    """Whether llama.cpp makes the weights of the chosen experts sum to 1, whatever a file says."""
    gguf_tied: ClassVar[bool] = True
    """Whether llama.cpp opens one without a head of its own."""

    def mlp(self, arch: Arch, index: int) -> Op:
        assert isinstance(arch, MoEArch)
        if index in arch.dense:
            return super().mlp(arch, index)
        hidden = arch.hidden
        router = Linear("ffn_gate_inp", "mlp.gate", arch.experts, hidden, precise=True)
        experts = gated("exps", "mlp.experts.{expert}", arch.expert_ffn, hidden, arch.experts)
        if not arch.shared_ffn:
            return MoE(router, experts, arch.top_k, arch.normalized)
        shared = gated("shexp", "mlp.shared_expert", arch.shared_ffn, hidden)
        name, hf = "ffn_gate_inp_shexp", "mlp.shared_expert_gate"
        gate = Linear(name, hf, 1, hidden, precise=True)
        return MoE(router, experts, arch.top_k, arch.normalized, shared, gate)

    def sizes(self, config: dict[str, Any]) -> dict[str, Any]:
        sizes = super().sizes(config)
        found = checked(config, MoEConfig, "config.json")
        given = [key for key in self.hf_experts if config.get(key) is not None]
        if not given:
            raise KeyError("num_experts")
        experts, top_k = int(config[given[0]]), found.num_experts_per_tok
        if top_k > experts:
            raise CorruptFileError(
                f"config.json has num_experts_per_tok {top_k} and {given[0]} {experts}; take the "
                "config.json that came with the weights."
            )
        step, alone = found.decoder_sparse_step, found.mlp_only_layers or ()
        return sizes | {
            "experts": experts,
            "top_k": top_k,
            "expert_ffn": found.moe_intermediate_size,
            "normalized": bool(found.norm_topk_prob),
            "dense": tuple(i for i in range(sizes["layers"]) if (i + 1) % step or i in alone),
        }

    def config(self, arch: Arch) -> dict[str, Any]:
        assert isinstance(arch, MoEArch)
        shared = {"shared_expert_intermediate_size": arch.shared_ffn} if arch.shared_ffn else {}
        return (
            super().config(arch)
            | dict.fromkeys(self.hf_experts, arch.experts)
            | shared
            | {
                "num_experts_per_tok": arch.top_k,
                "moe_intermediate_size": arch.expert_ffn,
                "norm_topk_prob": arch.normalized,
                "decoder_sparse_step": 1,
                "mlp_only_layers": list(arch.dense),
            }
        )

    def gguf_keys(self, arch: Arch) -> dict[str, Any]:
        assert isinstance(arch, MoEArch)
        if arch.normalized != self.gguf_normalized:
            does = "always" if self.gguf_normalized else "never"
            raise UnsupportedError(
                f"config.json has norm_topk_prob {str(arch.normalized).lower()}, and llama.cpp "
                f"{does} normalizes the experts' weights of a {self.name}; {ONNX}."
            )
        if arch.dense:
            raise UnsupportedError(
                f"{len(arch.dense)} of {arch.layers} layers have no experts, the first is "
                f"{arch.dense[0]}, and llama.cpp wants experts in every layer of a {self.name}; "
                f"{ONNX}."
            )
        if arch.tied and not self.gguf_tied:
            raise UnsupportedError(
                f"llama.cpp opens a {self.name} only with a head of its own, and this model uses "
                f"its embedding; {ONNX}."
            )
        keys = {
            "expert_count": arch.experts,
            "expert_used_count": arch.top_k,
            "expert_feed_forward_length": arch.expert_ffn,
        }
        if arch.shared_ffn:
            keys["expert_shared_feed_forward_length"] = arch.shared_ffn
        return super().gguf_keys(arch) | {f"{self.name}.{key}": n for key, n in keys.items()}

    def gguf_sizes(self, facts: GgufFacts) -> dict[str, Any]:
        keys = facts.keys
        # some converters leave the lengths out: the tensors have them
        rows = {
            part: facts.shapes.get(f"blk.0.ffn_gate_{part}.weight", ())
            for part in ("exps", "shexp")
        }
        widths = {part: shape[-2] if len(shape) > 1 else 0 for part, shape in rows.items()}
        experts, top_k = keys.count("expert_count"), keys.count("expert_used_count")
        if top_k > experts:
            raise keys.wrong("expert_used_count", top_k, f"there are {experts} experts")
        return super().gguf_sizes(facts) | {
            "experts": experts,
            "top_k": top_k,
            "expert_ffn": keys.count("expert_feed_forward_length", widths["exps"] or None),
            "shared_ffn": widths["shexp"],
            "normalized": self.gguf_normalized,
        }


def gated(name: str, hf: str, inner: int, hidden: int, experts: int | None = None) -> GatedMLP:
    """Gate, up and down of one expert, or of several stored as one."""
    sizes = {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}
    gate, up, down = (
        Linear(f"ffn_{part}_{name}", f"{hf}.{part}_proj", *size, experts=experts)
        for part, size in sizes.items()
    )
    return GatedMLP(gate, up, down)
