"""What an ONNX folder computes with onnxruntime's graph optimizer off."""

from pathlib import Path

import numpy as np

from quantize.loading import open_any
from runtime.backends.onnxruntime import needs_folding
from runtime.engine import Engine
from runtime.errors import EdgequantError

TOKENS = 16
"""Of text that is run both ways."""
ALIKE = 0.1
"""Difference of logits, over their size, that fused operators and 8-bit activations may make."""
UNLIKE = (
    "with onnxruntime's graph optimization off (ORT_DISABLE_ALL) it computes {what}, because "
    "MatMulNBits then has scales that are no constants: keep optimization on (the default), or "
    "store scales in float32 (--to onnx)"
)


def unfolded_notes(path: Path, engine: Engine, ids: np.ndarray) -> tuple[str, ...]:
    """The danger of a folder that needs the optimizer, if it shows on the first of ids (T,).

    `engine` is the folder as it is judged. A folder without computed scales is not run again.
    """
    if not needs_folding(path):
        return ()
    text = ids[None, :TOKENS]
    expected = engine.logits(text)
    try:
        found = open_any(path, purpose="judging", optimize=False).logits(text)
    except EdgequantError as error:
        return (f"it does not run with onnxruntime's graph optimization off: {error}",)
    size = float(np.linalg.norm(expected))
    difference = float(np.linalg.norm(found - expected)) / (size or 1.0)
    if difference <= ALIKE:  # False for NaN
        return ()
    what = f"logits that differ by {difference:.0%} of their size"
    return (UNLIKE.format(what=what if found.any() else "nothing but zeros"),)
