"""One decoder layer of Qwen2.5-1.5B's shape with random weights, and calibration inputs for it.

Numpy alone, so that a process with another version of torch gets the same numbers.
"""

from collections.abc import Iterator

import numpy as np

TOKENS = 32768
"""Calibration tokens."""
BATCH = 2048
"""Tokens at a time, as calibration has them."""
HIDDEN, FFN, KEYS = 1536, 8960, 256
STAGES: dict[int, tuple[int, dict[str, int]]] = {
    0: (HIDDEN, {"attn_q": HIDDEN, "attn_k": KEYS, "attn_v": KEYS}),
    1: (HIDDEN, {"attn_output": HIDDEN}),
    2: (HIDDEN, {"ffn_gate": FFN, "ffn_up": FFN}),
    3: (FFN, {"ffn_down": HIDDEN}),
}
"""Stage -> width of its input, and its linears with their rows."""
DIRECTIONS = 64
"""That inputs share: channels of a real model are correlated."""
DEVIATION = 0.02
"""Of the weights."""


def weights(stage: int) -> dict[str, np.ndarray]:
    """Linear -> float32 (rows, in)."""
    random = np.random.default_rng(100 + stage)
    width, linears = STAGES[stage]
    return {
        name: DEVIATION * random.standard_normal((rows, width), np.float32)
        for name, rows in linears.items()
    }


def inputs(stage: int) -> Iterator[np.ndarray]:
    """Batches of the stage's input: float32 (BATCH, in), TOKENS in all."""
    random = np.random.default_rng(200 + stage)
    width = STAGES[stage][0]
    mixing = random.standard_normal((DIRECTIONS, width), np.float32) / 8
    for _ in range(TOKENS // BATCH):
        shared = random.standard_normal((BATCH, DIRECTIONS), np.float32) @ mixing
        yield shared + random.standard_normal((BATCH, width), np.float32) / 2
