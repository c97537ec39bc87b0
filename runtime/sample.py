"""Choose the next token from logits: greedy, or temperature with top-k and top-p."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runtime.errors import InputError

WHOLE, NUMBER = (int, np.integer), (int, float, np.number)
LIMITS: tuple[tuple[str, tuple[type, ...], Callable[[Any], bool], str], ...] = (
    ("temperature", NUMBER, lambda value: 0 <= value < math.inf, "a number from 0 on"),
    ("top_k", WHOLE, lambda value: value >= 0, "a whole number from 0 on"),
    ("top_p", NUMBER, lambda value: 0 < value <= 1, "above 0 and at most 1"),
    ("seed", WHOLE, lambda value: value >= 0, "a whole number from 0 on"),
)
"""Field of a Sampler, its types, what it must be, and that in words."""


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
        for name, kinds, fits, wanted in LIMITS:
            value = getattr(self, name)
            if not isinstance(value, kinds) or not fits(value):
                raise InputError(f"{name} must be {wanted}, not {value!r}.")
        self.random = np.random.default_rng(self.seed)

    def pick(self, logits: np.ndarray) -> int:
        """The next token's id, from logits (V,)."""
        if self.temperature == 0:
            return int(logits.argmax())
        ids, weights = self.choices(logits)
        bounds = np.cumsum(weights)
        drawn = np.searchsorted(bounds, self.random.random() * bounds[-1], side="right")
        return int(ids[drawn])

    def choices(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What `pick` draws from: ids (n,) in ascending order, and their probabilities, float64."""
        ids = self._most_likely(logits)
        kept = logits[ids] if len(ids) < len(logits) else logits
        below = kept.astype(np.float64) - kept.max()
        with np.errstate(over="ignore"):  # nothing is drawn that lies so far below
            weights = np.exp(below / self.temperature)
        weights /= weights.sum()
        if self.top_p < 1:
            inside = self._nucleus(weights)
            ids, weights = ids[inside], weights[inside] / weights[inside].sum()
        return ids, weights

    def _most_likely(self, logits: np.ndarray) -> np.ndarray:
        """Ids of the top-k logits; of equal ones the first ids."""
        if not 0 < self.top_k < len(logits):
            return np.arange(len(logits))
        least = np.partition(logits, -self.top_k)[-self.top_k]
        above = np.flatnonzero(logits > least)
        equal = np.flatnonzero(logits == least)[: self.top_k - len(above)]
        return np.sort(np.concatenate([above, equal]))

    def _nucleus(self, weights: np.ndarray) -> np.ndarray:
        """Places, in ascending order, of the least set of probabilities that reaches top-p."""
        # all below this together stay under 1 - p; sorting a whole vocabulary would take 10 ms
        likely = np.flatnonzero(weights >= (1 - self.top_p) / len(weights))
        order = likely[np.argsort(-weights[likely], kind="stable")]
        sorted_weights = weights[order]
        # a token stays when the ones before it have not reached p yet
        before = np.cumsum(sorted_weights) - sorted_weights
        return np.sort(order[before < self.top_p])
