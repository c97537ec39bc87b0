"""Model families, one file each; importing the package fills `FAMILIES`. See base.py."""

import importlib
import pkgutil

from runtime.archs.base import FAMILIES, Arch, Family, Stage, family_of

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")

__all__ = ["FAMILIES", "Arch", "Family", "Stage", "family_of"]
