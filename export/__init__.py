"""Writers, one file a container: temp file, fsync, rename, reopened and compared. See base.py."""

import importlib
import pkgutil

from export.base import CONTAINERS, Container

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")

__all__ = ["CONTAINERS", "Container"]
