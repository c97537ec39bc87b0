"""Ways to choose the values, one file each; importing the package fills `METHODS`. See base.py."""

import importlib
import pkgutil

from quantize.methods.base import (
    METHODS,
    HessianFactor,
    Method,
    Rounded,
    SingularHessian,
    output_error,
)

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")

__all__ = ["METHODS", "HessianFactor", "Method", "Rounded", "SingularHessian", "output_error"]
