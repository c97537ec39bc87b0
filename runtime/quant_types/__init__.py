"""Quantization types, one file each; importing the package fills `QUANT_TYPES`. See base.py."""

import importlib
import pkgutil

from runtime.quant_types.base import (
    QUANT_TYPES,
    Array,
    Params,
    QuantType,
    join,
    normalize_importance,
    numpy_of,
    quant_type,
    to_numpy,
)
from runtime.quant_types.nvfp4 import SCALED

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")

__all__ = [
    "QUANT_TYPES",
    "SCALED",
    "Array",
    "QuantType",
    "Params",
    "quant_type",
    "join",
    "normalize_importance",
    "numpy_of",
    "to_numpy",
]
