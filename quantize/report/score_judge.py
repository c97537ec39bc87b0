"""Judge artifacts of a model that scores texts: their scores and the original's, on equal texts."""

from dataclasses import dataclass

import numpy as np

import quantize
from calib_data import Windows
from quantize.checkpoint import Checkpoint
from quantize.progress import Progress
from quantize.report import tokens
from quantize.report.checks import failures, sound
from quantize.report.examine import look
from quantize.report.original import open_original
from quantize.report.report import Evaluation, OriginalModel, now
from quantize.report.score_metrics import summarize
from quantize.report.score_report import ScoreGates, ScoreReport, ScoreResult
from quantize.report.subject import Subject
from runtime.archs import ScoreHead
from runtime.checkpoint import model_name
from runtime.engine import Engine
from runtime.errors import CorruptFileError, InputError
from runtime.model import Model
from runtime.scores import as_scores, marker_id

EVERY = 64
"""Tokens from one scored place of a window to the next: what ends there is a text."""


@dataclass(frozen=True)
class Texts:
    """What is scored."""

    ids: np.ndarray
    """(W, T); the head's marker, if it has one, stands at every scored place."""
    places: np.ndarray
    """(p,): indices into a window."""
    domains: tuple[str, ...]
    """Of every window."""


def places_of(length: int, every: int = EVERY) -> np.ndarray:
    """Where windows of so many tokens are scored: the last token, and every so many before it."""
    return np.arange(length - 1, -1, -every)[::-1]


def check_texts(windows: Windows) -> None:
    """Raise InputError for a single text, which has no order."""
    rows, length = windows.ids.shape
    if rows * len(places_of(length)) < 2:
        raise InputError(
            f"{rows} window of {length} tokens is a single text to score, and an order takes two; "
            "use --eval-rows 2 or more, or other text with --eval-data."
        )


def texts_of(windows: Windows, head: ScoreHead, marker: int | None, every: int = EVERY) -> Texts:
    """Windows as texts that end at their last token, and every so many before it."""
    ids = windows.ids.copy()
    places = places_of(ids.shape[1], every)
    if marker is not None:
        ids[:, places] = marker
    return Texts(ids, places, windows.domains)


def measure_scores(
    windows: Windows,
    evaluation: Evaluation,
    original: OriginalModel,
    gates: ScoreGates,
    checkpoint: Checkpoint,
    subjects: list[Subject],
    device: str,
    progress: Progress,
) -> ScoreReport:
    """Score the windows with the original and every artifact, and compare.

    Raises EdgequantError when the original computes NaN or infinity or scores all texts alike, and
    for an artifact with another head or a shorter context.
    """
    head, source = checkpoint.arch.score_head, checkpoint.model()
    assert head is not None
    texts = texts_of(windows, head, marker_id(head, source.tokenizer))
    engine = open_original(checkpoint, original.backend, device)
    expected = scores_of(engine, head, texts, "the original", progress)
    refuse_useless(expected)
    results = tuple(
        judged(subject, head, texts, expected, checkpoint, source, gates, progress)
        for subject in subjects
    )
    return ScoreReport(
        version=quantize.__version__,
        original=original,
        evaluation=evaluation,
        every=EVERY,
        gates=gates,
        scores=rows_of(expected),
        results=results,
        notes=windows.left_out,
        time=now(),
    )


def scores_of(
    engine: Engine, head: ScoreHead, texts: Texts, label: str, progress: Progress
) -> np.ndarray:
    """Scores (N, L) of the texts, window by window."""
    if texts.ids.shape[1] > engine.arch.context:
        raise InputError(
            f"{label} has a context of {engine.arch.context} tokens and a window has "
            f"{texts.ids.shape[1]}; use --eval-length {engine.arch.context} or less."
        )
    found = []
    for index, ids in enumerate(texts.ids):
        outputs = engine.logits(ids[None])[0]  # (T, labels)
        if outputs.shape[1] != head.labels:
            raise InputError(
                f"{label} gives {outputs.shape[1]} numbers a token and the original {head.labels}; "
                "compare a file with the model it was made from."
            )
        found.append(as_scores(head, outputs[texts.places]))
        progress(f"scores of {label}", index + 1, len(texts.ids), "")
    return np.concatenate(found)


def refuse_useless(scores: np.ndarray) -> None:
    """Raise EdgequantError where nothing can be measured against the original's scores (N, L)."""
    if not np.isfinite(scores).all():
        raise CorruptFileError(
            "the original computes NaN or infinite scores, so nothing can be measured against it; "
            "check the checkpoint, or run it on another device."
        )
    if not (scores != scores[:1]).any():
        raise InputError(
            "the original scores all texts alike, so there is no order to compare; judge on other "
            "text with --eval-data, or on more with --eval-rows."
        )


def judged(
    subject: Subject,
    head: ScoreHead,
    texts: Texts,
    expected: np.ndarray,
    checkpoint: Checkpoint,
    source: Model,
    gates: ScoreGates,
    progress: Progress,
) -> ScoreResult:
    """One artifact, with its failures."""
    scores = scores_of(subject.engine, head, texts, subject.label, progress)
    metrics = summarize(expected, scores)
    stored = look(checkpoint, source, subject, texts.ids[0])
    broken = int(np.count_nonzero(~np.isfinite(scores).all(1)))
    told = [f"it computes NaN or infinite scores for {broken:,} of {len(scores):,} texts"]
    checks = (
        *stored.checks,
        sound("scores", told if broken else []),
        sound("tokenizer", tokens.failures(stored.tokenizer)),
        *gates.checks(metrics),
    )
    names = np.repeat(np.array(texts.domains), len(texts.places))
    return ScoreResult(
        label=subject.label,
        file=model_name(subject.path),
        container=subject.container,
        bytes=subject.bytes,
        bits_per_weight=stored.bits_per_weight,
        backend=subject.backend,
        metrics=metrics,
        domains={
            str(name): summarize(expected[names == name], scores[names == name])
            for name in np.unique(names)
        },
        scores=rows_of(scores),
        tensors=stored.scan.tensors,
        tokenizer=stored.tokenizer,
        failures=failures(checks),
        notes=stored.notes,
        maker=subject.maker,
        differences=stored.differences,
        checks=checks,
    )


def rows_of(scores: np.ndarray) -> tuple[tuple[float, ...], ...]:
    """Scores (N, L) as a report keeps them."""
    return tuple(tuple(map(float, row)) for row in scores)
