"""Settings of each effort level (`--effort`)."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much work is spent on better values."""

    descent_iterations: int
    """Passes of coordinate descent after rounding (methods/descent.py)."""
    windows: int
    """Calibration windows whose gradients are taken (fisher.py), for the embedding."""
    weigh: bool = False
    """Whether gradients of all windows are taken, and weigh the tokens in every Hessian."""
    rewrites: tuple[str, ...] = ()
    """Function-preserving changes before rounding (quantize/rewrites)."""
    steps: int = 0
    """Steps of gradient descent on norms, biases and block scales after rounding (tune.py)."""
    compensates: bool = False
    """Whether linears make up for the rounding of the layers before them (compensation.py)."""


EFFORTS = {
    "low": Effort(descent_iterations=0, windows=0),
    "medium": Effort(descent_iterations=1, windows=8, rewrites=("scales",), compensates=True),
    "high": Effort(
        descent_iterations=3,
        windows=16,
        weigh=True,
        rewrites=("scales",),
        steps=64,
        compensates=True,
    ),
}
"""By the words of --effort."""

LEAST_WINDOWS = 16
"""Windows whose gradients are taken for an automatic target at any effort."""
