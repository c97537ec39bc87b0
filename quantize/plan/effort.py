"""Settings of each effort level (`--effort`)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """How much work is spent on better values."""

    passes: int
    """Coordinate descent after rounding (methods/descent.py)."""
    windows: int
    """Calibration windows whose gradients are taken (fisher.py), for the embedding."""
    weigh: bool
    """Whether gradients of all windows are taken, and weigh the tokens in every Hessian."""
    rewrites: tuple[str, ...]
    """Function-preserving changes before rounding (quantize/rewrites)."""
    steps: int
    """Steps of gradient descent on norms, biases and block scales after rounding (tune.py)."""
    compensates: bool = False
    """Whether linears make up for the rounding of the layers before them (compensation.py)."""


EFFORTS = {
    "low": Effort(0, 0, False, (), 0),
    "medium": Effort(1, 8, False, ("scales",), 0, True),
    "high": Effort(3, 16, True, ("scales",), 64, True),
}
"""By the words of --effort."""

LEAST_WINDOWS = 16
"""Windows whose gradients are taken for an automatic target at any effort."""
