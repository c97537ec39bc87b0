"""Scales that stand beside tensors in a GGUF: NAME.scale, by which NAME.weight is multiplied.

NVFP4 has one for each tensor, or for each expert of it. NAME.input_scale, which llama.cpp loads
for NVIDIA's cards that multiply activations in NVFP4 as well, changes nothing on other machines.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from runtime.archs import Family
from runtime.errors import CorruptFileError, UnsupportedError
from runtime.quant_types import QuantType
from runtime.tensor import Shape

Scales = dict[str, np.ndarray]
"""Name of a weight -> float32 (1,) or (experts,)."""

SUFFIXES = (".scale", ".input_scale")

ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_output", "output")
FEED_FORWARD = tuple(
    f"ffn_{part}{kind}" for part in ("gate", "up", "down") for kind in ("", "_exps", "_shexp")
)
SCALED = ATTENTION + FEED_FORWARD
"""Weights that llama.cpp knows scales of."""


class Info(Protocol):
    """What is asked of a line of the tensor table."""

    @property
    def shape(self) -> Shape: ...
    @property
    def qtype(self) -> QuantType: ...
    @property
    def packed(self) -> np.ndarray: ...


def find_scales(path: Path, infos: Mapping[str, Info], family: Family) -> tuple[Scales, set[str]]:
    """The scales of a model's weights, and the names of all tensors that stand beside one.

    Raises EdgequantError for a scale of another shape, beside a weight that is not NVFP4, or one
    that llama.cpp leaves out.
    """
    scales: Scales = {}
    beside: set[str] = set()
    for name, info in infos.items():
        base, dot, last = name.rpartition(".")
        weight, part = f"{base}.weight", base.split(".")[-1]
        if dot + last not in SUFFIXES or weight not in infos or part not in SCALED:
            continue
        _check(path, name, info, weight, infos[weight])
        beside.add(name)
        if dot + last == ".scale":
            scales[weight] = info.qtype.decode(info.packed).reshape(-1)
            if part in FEED_FORWARD and not family.gguf_ffn_scales and (scales[weight] != 1).any():
                raise UnsupportedError(
                    f"{path} has {name}, which llama.cpp leaves out of a {family.name}, so that it "
                    "computes another model; convert the original to another type than NVFP4."
                )
    return scales, beside


def _check(path: Path, name: str, info: Info, weight: str, scaled: Info) -> None:
    count = scaled.shape[0] if len(scaled.shape) == 3 else 1
    if info.qtype.name != "F32" or info.shape != (count,):
        raise CorruptFileError(
            f"{name} in {path} has shape {info.shape} and the type {info.qtype.name}, but {weight} "
            f"takes {count} scales in F32; convert the model again."
        )
    if scaled.qtype.name != "NVFP4":
        raise UnsupportedError(
            f"{path} has {name} beside {weight} in {scaled.qtype.name}, and scales are read beside "
            "NVFP4 alone; run it with --backend llamacpp, or convert the original."
        )
