"""Where tokens stand, and what stands there: rope tables, and embeddings that are no token's."""

from typing import Any

import numpy as np

from runtime.archs import Attention

Tables = tuple[np.ndarray, np.ndarray]
"""cos and sin of some positions, (T, rotated channels / 2) each."""


class Positions:
    """Positions start..stop, and the rope tables of them that layers ask for, each made once."""

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop
        self._tables: dict[Any, Tables] = {}

    def tables(self, spec: Attention) -> Tables | None:
        """cos and sin for an attention; None where positions are not told."""
        if spec.rope is None:
            return None
        key = (spec.rope, spec.rope_channels)
        if key not in self._tables:
            self._tables[key] = spec.rope.tables(self.start, self.stop, spec.rope_channels)
        return self._tables[key]

    def filled(self, ops: Any, x: Any) -> Any:
        """Embeddings x (B, T, D) of the tokens, with what stands in place of some of them."""
        return x
