"""Run the original once over each window and every artifact beside it. No logits are kept."""

from collections.abc import Mapping

import numpy as np

from quantize.progress import Progress
from quantize.report.metrics import TokenScores, join, score, stack
from quantize.report.worst import Worst
from runtime.archs import Arch
from runtime.engine import Engine
from runtime.errors import CorruptFileError, InputError

PIECE = 1 << 27
"""Bytes of one model's float32 logits, and half the bytes of a layer's attention scores, at a time:
larger windows go through in pieces."""


def compare(
    original: Engine,
    candidates: dict[str, Engine],
    windows: np.ndarray,
    progress: Progress,
    piece: int = PIECE,
    worst: Mapping[str, Worst] | None = None,
) -> dict[str, TokenScores]:
    """Score each candidate on windows (W, T) of token ids; arrays of the result are (W, T).

    `worst` keeps the worst tokens of the candidates that it has.

    Raises EdgequantError when the original computes NaN or infinity, when a candidate has another
    vocabulary, or when a window is longer than a model's context.
    """
    for label, engine in {"the original": original, **candidates}.items():
        if windows.shape[1] > engine.arch.context:
            raise InputError(
                f"{label} has a context of {engine.arch.context} tokens and a window has "
                f"{windows.shape[1]}; use --eval-length {engine.arch.context} or less."
            )
    kept: dict[str, list[TokenScores]] = {label: [] for label in candidates}
    for index, ids in enumerate(windows):
        scores = compare_window(original, candidates, ids, piece, index, worst or {})
        for label, window in scores.items():
            kept[label].append(window)
        note = ", ".join(
            f"{label} KL {np.mean([w.kl.mean() for w in done]):.5f}" for label, done in kept.items()
        )
        progress("judging", index + 1, len(windows), note)
    return {label: stack(done) for label, done in kept.items()}


def compare_window(
    original: Engine,
    candidates: dict[str, Engine],
    ids: np.ndarray,
    piece: int,
    index: int,
    worst: Mapping[str, Worst],
) -> dict[str, TokenScores]:
    """Score each candidate on one window (T,), the `index`-th of all."""
    step = tokens_at_once(original.arch, len(ids), piece)
    pieces = [slice(start, start + step) for start in range(0, len(ids), step)]
    following = np.append(ids[1:], -1)  # (T,): nobody knows what comes after the window
    engines = [original, *candidates.values()]
    caches = [e.new_cache(1, len(ids)) if len(pieces) > 1 else None for e in engines]
    kept: dict[str, list[TokenScores]] = {label: [] for label in candidates}
    for at in pieces:
        reference = original.logits(ids[None, at], caches[0])[0]  # (t, V)
        if not np.isfinite(reference).all():
            raise CorruptFileError(
                "the original computes NaN or infinite logits, so nothing can be measured against "
                "it; check the checkpoint, or run it on another device."
            )
        for (label, engine), cache in zip(candidates.items(), caches[1:], strict=True):
            logits = engine.logits(ids[None, at], cache)[0]  # (t, V)
            if logits.shape != reference.shape:
                raise InputError(
                    f"{label} predicts {logits.shape[1]} tokens and the original "
                    f"{reference.shape[1]}; compare a file with the model it was made from."
                )
            found = score(reference, logits, following[at])
            if label in worst:
                worst[label].see(index, at.start, found.kl, reference, logits)
            kept[label].append(found)
    return {label: join(parts) for label, parts in kept.items()}


def tokens_at_once(arch: Arch, length: int, piece: int = PIECE) -> int:
    """Tokens of a window whose logits, and half of whose attention scores, fit in `piece` bytes."""
    heads = max(arch.layer(index).attention.heads for index in range(arch.layers))
    return max(1, piece // max(4 * arch.vocab, 2 * heads * length))
