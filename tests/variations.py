"""Decoder layers that no model family has, built from op records: every engine computes them alike.

The family of these models is registered only within `registered()`.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from quantize.checkpoint import bundled
from runtime.archs import (
    FAMILIES,
    Arch,
    Attention,
    Family,
    GatedMLP,
    Linear,
    MoE,
    Norm,
    Op,
    Residual,
)
from runtime.model import Model
from runtime.rope import Rope
from runtime.tensor import Tensor
from tests.conftest import SIZES

FACTS = SIZES | {
    "model_type": "varied",
    "num_hidden_layers": 3,
    "head_dim": 32,  # 6 heads of them are twice the hidden size
    "rope_theta": 1e4,
    "max_position_embeddings": 2048,
}
"""The config.json of every variation, but for its name."""

Ops = tuple[Op, ...]
Change = Callable[[Ops, int], Ops]
"""The usual ops of a layer, and its index -> others."""


@dataclass(frozen=True)
class VariedArch(Arch):
    """Sizes, and how the layers vary."""

    variation: str = ""


def each(kind: type, **changes: Any) -> Change:
    """Other fields in every op of one kind."""

    def change(ops: Ops, index: int) -> Ops:
        return tuple(replace(op, **changes) if isinstance(op, kind) else op for op in ops)

    return change


def only(wanted: Callable[[int], bool], change: Change) -> Change:
    """A change of some layers."""
    return lambda ops, index: change(ops, index) if wanted(index) else ops


def together(*changes: Change) -> Change:
    """Several changes of one layer."""

    def change(ops: Ops, index: int) -> Ops:
        for one in changes:
            ops = one(ops, index)
        return ops

    return change


def post_norms(ops: Ops, index: int) -> Ops:
    """A norm of what each residual adds."""
    norms = [Norm(f"{part}_post_norm", f"{part}_post_norm", 96, 1e-4) for part in ("attn", "ffn")]
    return tuple(
        replace(op, post_norm=norms.pop(0)) if isinstance(op, Residual) else op for op in ops
    )


def odd_order(ops: Ops, index: int) -> Ops:
    """No norm before the attention, one after it, and a stream that is added to itself."""
    norm, attention, residual, other, mlp, _ = ops
    assert isinstance(other, Norm)
    return attention, norm, residual, Residual(0.5, post_norm=other), mlp, residual


def experts(shared: bool) -> Change:
    """Two of four experts; `shared`: and the MLP for every token, as a gate lets it through."""

    def change(ops: Ops, index: int) -> Ops:
        mlp = next(op for op in ops if isinstance(op, GatedMLP))

        def several(part: str) -> Linear:
            name, hf = f"ffn_{part}_exps", f"mlp.experts.{{expert}}.{part}_proj"
            return replace(getattr(mlp, part), name=name, hf=hf, experts=4, bias=False)

        own = replace(mlp, gate=several("gate"), up=several("up"), down=several("down"))
        router = replace(mlp.gate, name="ffn_gate_inp", hf="mlp.router", outputs=4)
        gate = replace(mlp.gate, name="ffn_gate_inp_shexp", hf="mlp.shared_gate", outputs=1)
        moe = MoE(router, own, 2, not shared, *((mlp, gate) if shared else ()))
        return tuple(moe if op is mlp else op for op in ops)

    return change


Q_NORM = Norm("attn_q_norm", "self_attn.q_norm", 32, 1e-3)
K_NORM = Norm("attn_k_norm", "self_attn.k_norm", 32, 1e-5)

COMPUTED: dict[str, Change] = {
    "usual": lambda ops, index: ops,
    "query and key norms": each(Attention, q_norm=Q_NORM, k_norm=K_NORM),
    "query norm": each(Attention, q_norm=Q_NORM),
    "no rope": each(Attention, rope=None),
    "no rope in some layers": only(lambda index: index != 1, each(Attention, rope=None)),
    "several ropes": only(
        lambda index: index > 0,
        each(Attention, rope=Rope(theta=50.0, rope_type="yarn", factor=3.0, original_context=16)),
    ),
    "rope of some channels": each(Attention, rope_channels=16),
    "scale": each(Attention, scale=0.05),
    "window": only(lambda index: index < 2, each(Attention, window=5)),
    "window of one": each(Attention, window=1),
    "long window": each(Attention, window=150),
    "multiplier": each(Residual, multiplier=0.3),
    "post norms": post_norms,
    "gelu": each(GatedMLP, activation="gelu"),
    "scaled embedding": lambda ops, index: ops,
    "odd order": odd_order,
    "all of it": together(
        each(Attention, q_norm=Q_NORM, k_norm=K_NORM, window=9, scale=0.3),
        each(Attention, rope_channels=16),
        only(lambda index: index == 1, each(Attention, rope=None, window=None)),
        post_norms,
        each(Residual, multiplier=1.5),
        each(GatedMLP, activation="gelu"),
    ),
}
"""Variations that every engine computes."""

PARTLY: dict[str, Change] = {
    "soft cap": each(Attention, soft_cap=2.0),
    "experts": experts(shared=False),
    "shared expert": experts(shared=True),
    "other heads": only(lambda index: index == 1, each(Attention, kv_heads=6)),
    "no attention": only(lambda index: index == 2, lambda ops, index: ops[3:]),
    "rope of few channels": each(Attention, rope_channels=8),
    "rope of too many channels": each(Attention, rope_channels=34),
}
"""Variations that some engines refuse."""


@contextmanager
def registered() -> Iterator[None]:
    """The family of the variations, for a time."""

    class Varied(Family):
        name = "varied"
        hf_types = ("varied",)
        hf_class = "VariedForCausalLM"
        biased = ("attn_k", "attn_output", "ffn_gate", "ffn_down")
        arch_type = VariedArch

        def layer(self, arch: Arch, index: int) -> Ops:
            assert isinstance(arch, VariedArch)
            return (COMPUTED | PARTLY)[arch.variation](super().layer(arch, index), index)

        def sizes(self, config: dict[str, Any]) -> dict[str, Any]:
            scale = 7.5 if config["variation"] in ("scaled embedding", "all of it") else 1.0
            sizes = {"variation": config["variation"], "embedding_scale": scale}
            return super().sizes(config) | sizes

    try:
        yield
    finally:
        del FAMILIES["varied"]


def model_of(name: str) -> Model:
    """A model with random weights; its queries and keys depend on positions."""
    arch = FAMILIES["varied"].arch(FACTS | {"variation": name})
    random = np.random.default_rng(0)
    tensors = {}
    for tensor, shape in arch.shapes().items():
        values = random.standard_normal(shape, np.float32)
        scale = 0.2 if "attn_q." in tensor or "attn_k." in tensor else 0.06
        tensors[tensor] = Tensor.dense(tensor, values * np.float32(scale) + ("norm" in tensor))
    return Model(arch, tensors)


def folder_of(name: str, folder: Path) -> Path:
    """A checkpoint's config.json and tokenizer, without weights."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(FACTS | {"variation": name}))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(bundled() / file, folder / file)
    return folder
