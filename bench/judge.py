"""Judge files in the engines that users run: KL divergence on windows of text nobody calibrated on.

The protocol is that of llama-perplexity: a text is cut into windows of 512 tokens, each starts with
an empty cache, and the second half is scored, where every token has context. The reference is the
full-precision file in the same engine, so that what the engine itself rounds is no difference.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import calib_data
from quantize.checkpoint import Checkpoint
from quantize.progress import silent
from quantize.report.compare import compare
from runtime.engine import Engine
from runtime.errors import InputError

LENGTH = 512
"""Tokens a window."""
BUILTIN = "builtin"
"""Name of the held-out part of the built-in text."""

Texts = dict[str, np.ndarray]
"""Name of a text -> its windows, (windows, LENGTH) int32."""


@dataclass(frozen=True)
class Judged:
    """What is kept of one file."""

    kl: dict[str, np.ndarray]
    """Text -> mean KL of each window's second half, nats a token, (windows,)."""

    @property
    def mean(self) -> float:
        """Mean over the windows of all texts."""
        return float(np.concatenate(list(self.kl.values())).mean())

    def of(self, text: str) -> float:
        """Mean over the windows of one text."""
        return float(self.kl[text].mean())


def read(checkpoint: Checkpoint, files: list[Path], chunks: int) -> Texts:
    """The first `chunks` windows of each file; without files those of the built-in held-out text.

    Raises EdgequantError for a file that has no whole window, or two of one name.
    """
    if not files:
        found = calib_data.load(BUILTIN, checkpoint.tokenizer, chunks, LENGTH, part="heldout")
        return {BUILTIN: found.ids}
    texts: Texts = {}
    for file in files:
        name = file.name.removesuffix(".txt")
        if name in texts:
            raise InputError(f"two of the texts are called {file.name}; rename one of them.")
        ids = checkpoint.tokenizer.encode(file.read_text(encoding="utf-8"))
        count = min(chunks, len(ids) // LENGTH)
        if not count:
            raise InputError(
                f"{file} has {len(ids)} tokens, and a window takes {LENGTH}; give a longer text."
            )
        texts[name] = np.array(ids[: count * LENGTH], np.int32).reshape(count, LENGTH)
    return texts


def judge(base: Engine, candidates: dict[str, Engine], texts: Texts) -> dict[str, Judged]:
    """Run every candidate beside the full-precision engine: label -> what is kept of it."""
    kept: dict[str, dict[str, np.ndarray]] = {label: {} for label in candidates}
    for text, windows in texts.items():
        scores = compare(base, candidates, windows, silent)
        for label, found in scores.items():
            kept[label][text] = found.kl[:, LENGTH // 2 :].astype(np.float64).mean(1)
    return {label: Judged(kl) for label, kl in kept.items()}
