"""Choose the next token from logits: greedy, or temperature with top-k and top-p."""

from dataclasses import dataclass, field

import numpy as np

from runtime.errors import EdgequantError


@dataclass
class Sampler:
    """Greedy at temperature 0; otherwise a draw that a seed makes repeatable."""

    temperature: float = 0.0
    top_k: int = 0
    """Keep only the k most likely tokens; 0 = all."""
    top_p: float = 1.0
    """Keep the least set of tokens whose probabilities reach p."""
    seed: int = 0
    random: np.random.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise EdgequantError(
                "temperature and top-k must not be negative, and top-p lies in (0, 1]."
            )
        self.random = np.random.default_rng(self.seed)

    def pick(self, logits: np.ndarray) -> int:
        """The next token's id, from logits (V,)."""
        if self.temperature == 0:
            return int(logits.argmax())
        probabilities = self.probabilities(logits)
        return int(self.random.choice(len(probabilities), p=probabilities))

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """What `pick` draws from: (V,) float64, zero where top-k or top-p cut."""
        scaled = logits.astype(np.float64) / self.temperature
        order = np.argsort(-scaled, kind="stable")
        kept = order[: self.top_k or len(order)]
        weights = np.exp(scaled[kept] - scaled[kept[0]])
        weights /= weights.sum()
        # a token stays when the ones before it have not reached p yet
        inside = np.cumsum(weights) - weights < self.top_p
        out = np.zeros(len(logits))
        out[kept[inside]] = weights[inside] / weights[inside].sum()
        return out
