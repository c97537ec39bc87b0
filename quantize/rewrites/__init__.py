"""Function-preserving rewrites of a layer, one file each; importing fills `REWRITES`."""

import importlib
import pkgutil

from quantize.rewrites.base import REWRITES, Rewrite, check_preserved, fold

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")

__all__ = ["REWRITES", "Rewrite", "check_preserved", "fold"]
