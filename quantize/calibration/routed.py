"""What the router of a layer read, and whom it chose: all that its experts are calibrated by."""

import numpy as np
import torch

from quantize.run.cost import FLOAT
from runtime.archs import LayerSpec


class Routed:
    """What a layer's router read, (tokens, D), and which tokens each expert was given."""

    def __init__(self, inputs: np.ndarray, experts: int) -> None:
        self.inputs, self.experts = inputs, experts
        self.count = 0
        """Tokens so far."""
        self.before = 0
        """Those before the batch that is on its way."""
        self.given: dict[int, list[np.ndarray]] = {expert: [] for expert in range(experts)}

    def read(self, x: torch.Tensor) -> None:
        """The next tokens."""
        self.before, self.count = self.count, self.count + len(x)
        self.inputs[self.before : self.count] = x.cpu().numpy()

    def give(self, expert: int, tokens: np.ndarray) -> None:
        """Tokens of the batch, (n,), go to an expert."""
        self.given[expert].append(self.before + tokens)

    def of(self, expert: int) -> np.ndarray:
        """The tokens of an expert, (n,)."""
        return np.concatenate([np.arange(0), *self.given[expert]])


def routed_bytes(spec: LayerSpec, tokens: int) -> int:
    """Bytes of what a router reads; none in a layer without."""
    return FLOAT * tokens * spec.mixture.router.inputs if spec.mixture else 0
