"""Model families, one file each; importing the package fills `FAMILIES`. See base.py, layer.py."""

import importlib
import pkgutil

from runtime.archs.base import FAMILIES, Arch, Family
from runtime.archs.heads import ScoreHead
from runtime.archs.known import family_of
from runtime.archs.layer import (
    Activation,
    Attention,
    GatedMLP,
    InputGroup,
    LayerSpec,
    Linear,
    MoE,
    Norm,
    Op,
    Residual,
)

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")

__all__ = [
    "FAMILIES",
    "Activation",
    "Arch",
    "Attention",
    "Family",
    "GatedMLP",
    "InputGroup",
    "LayerSpec",
    "Linear",
    "MoE",
    "Norm",
    "Op",
    "Residual",
    "ScoreHead",
    "family_of",
]
