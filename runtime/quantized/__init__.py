"""Checkpoints that other tools quantized, one file for each `quant_method`; see base.py."""

import importlib
import pkgutil

from runtime.quantized.base import (
    METHODS,
    Readable,
    beside_notes,
    is_read,
    read_quantized,
    settings_of,
)

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")

__all__ = ["METHODS", "Readable", "beside_notes", "is_read", "read_quantized", "settings_of"]
