"""Quantize language models for laptops and phones, and prove the result.

    import edgequant

    made = edgequant.quantize("Qwen/Qwen2.5-0.5B", to="gguf:Q4_K_M", output="dist", max_kl=0.05)
    model = edgequant.load(made.artifacts[0].path)
    print(model.generate("The history of the city", count=32))

This package is the Python interface, and all that is promised of it is in `__all__`. Importing it
loads nothing else: a name is looked up when it is first used. docs/python.md describes each.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgequant._convert import convert
    from edgequant._judge import attest, check, compare, verify
    from edgequant._make import Artifact, Result, plan, quantize
    from edgequant._model import LoadedModel, load
    from quantize.plan import Plan, Rule, Target
    from quantize.report.report import Report
    from quantize.report.score_report import ScoreReport
    from quantize.run.convert import Conversion, Converted
    from quantize.run.forecast import Forecast
    from runtime.errors import (
        CorruptFileError,
        EdgequantError,
        GateError,
        InputError,
        SpaceError,
        UnsupportedError,
    )

__version__ = "0.1.0"

__all__ = [
    "Artifact",
    "Conversion",
    "Converted",
    "CorruptFileError",
    "EdgequantError",
    "Forecast",
    "GateError",
    "InputError",
    "LoadedModel",
    "Plan",
    "Report",
    "Result",
    "Rule",
    "ScoreReport",
    "SpaceError",
    "Target",
    "UnsupportedError",
    "__version__",
    "attest",
    "check",
    "compare",
    "convert",
    "load",
    "plan",
    "quantize",
    "verify",
]

_HOMES = {
    "edgequant._make": ("Artifact", "Result", "plan", "quantize"),
    "edgequant._judge": ("attest", "check", "compare", "verify"),
    "edgequant._convert": ("convert",),
    "edgequant._model": ("LoadedModel", "load"),
    "quantize.run.convert": ("Conversion", "Converted"),
    "quantize.run.forecast": ("Forecast",),
    "quantize.plan": ("Plan", "Rule", "Target"),
    "quantize.report.report": ("Report",),
    "quantize.report.score_report": ("ScoreReport",),
    "runtime.errors": (
        "CorruptFileError",
        "EdgequantError",
        "GateError",
        "InputError",
        "SpaceError",
        "UnsupportedError",
    ),
}
"""Module -> the public names that it defines."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used. Raises ImportError when a package is shadowed."""
    for module, names in _HOMES.items():
        if name in names:
            importlib.import_module("edgequant._packages").refuse_shadowed()
            found = globals()[name] = getattr(importlib.import_module(module), name)
            return found
    raise AttributeError(f"module 'edgequant' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
