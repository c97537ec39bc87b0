"""Quantize language models for laptops and phones, and prove the result; `cli` is the way in."""

import os

__version__ = "0.1.0"

# Read when torch is first imported. Its threads otherwise spin while they wait for each other: on
# two cores a run on the bundled model took 2 to 7 times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
