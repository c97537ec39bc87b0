"""Quantize language models for laptops and phones, and prove the result; `cli` is the way in."""

import os

from edgequant import __version__
from edgequant._packages import refuse_shadowed

__all__ = ["__version__"]

refuse_shadowed()

# Read when torch is first imported. Its threads otherwise spin while they wait for each other: on
# two cores a run on the bundled model took 2 to 7 times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
