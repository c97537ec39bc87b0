"""Byte layouts, one file each; importing the package fills `BLOCKS`. See base.py for the seam."""

import importlib
import pkgutil

from runtime.blocks.base import (
    BLOCKS,
    Array,
    Block,
    Params,
    block,
    join,
    normalize_importance,
    numpy_of,
    to_numpy,
)

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")

__all__ = [
    "BLOCKS",
    "Array",
    "Block",
    "Params",
    "block",
    "join",
    "normalize_importance",
    "numpy_of",
    "to_numpy",
]
