"""How far an artifact strays in text after images: drawings with captions, one at a time.

An ONNX folder reads them with its own tower. For the others that of the original makes the
embeddings, so that the language model is judged; llama.cpp takes none, so one of ours runs what it
would.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from calib_data.drawings import HELD_OUT, drawings
from quantize.checkpoint import Checkpoint
from quantize.progress import Progress
from quantize.report.examine import window_scores
from quantize.report.metrics import Metrics, TokenScores, score, stack, summarize
from quantize.report.report import WindowScore
from quantize.report.subject import Subject
from quantize.vision import open_vision
from runtime.engine import Engine, OpsEngine, open_engine
from runtime.errors import UnsupportedError
from runtime.vision.image import patches_of
from runtime.vision.place import with_room
from runtime.vision.seeing import SeeingEngine, SeenImages, own_tower, see_together

LENGTH = 32
"""Tokens of a caption that are judged."""


@dataclass(frozen=True)
class ImageRow:
    """A drawing and its caption as tokens."""

    seen: SeenImages
    ids: np.ndarray
    """(T,), with room for the image's embeddings."""
    judged: slice
    """Tokens after which the next one is predicted: LENGTH of them, from the image's end on."""


@dataclass(frozen=True)
class ImageScores:
    """How an artifact fares in text after images."""

    metrics: Metrics
    windows: tuple[WindowScore, ...]
    """Of each drawing."""
    problems: tuple[str, ...]
    """What makes it unfit, whatever the limits are."""


def digest(rows: Sequence[ImageRow]) -> str:
    """sha256 of what is judged, "" of nothing."""
    found = hashlib.sha256()
    for row in rows:
        found.update(row.ids.astype("<i8").tobytes())
        for image in row.seen.images:
            found.update(image.values.astype("<f4").tobytes())
    return found.hexdigest() if rows else ""


def image_rows(checkpoint: Checkpoint, count: int = HELD_OUT) -> list[ImageRow]:
    """Rows to judge a model that reads images with; [] for one that does not, or has no room.

    Raises EdgequantError as `open_vision` does.
    """
    vision = open_vision(checkpoint)
    if vision is None or vision.ids is None:
        return []
    tower, tensors, preparation = vision[:3]
    start, token, end = vision.ids
    rows = []
    for drawing in drawings(count):
        seen = SeenImages(tower, tensors, [patches_of(drawing.pixels, tower, preparation)], token)
        before = with_room([start, token, end], seen.images, tower.merge, token)
        caption = checkpoint.tokenizer.encode(drawing.caption)[: LENGTH - 1]
        ids, first = np.array([*before, *caption], np.int64), len(before) - 1
        if len(caption) == LENGTH - 1 and len(ids) <= checkpoint.arch.context:
            rows.append(ImageRow(seen, ids, slice(first, first + LENGTH)))
    return rows


def after_images(
    original: OpsEngine,
    subjects: Sequence[Subject],
    rows: Sequence[ImageRow],
    progress: Progress,
) -> dict[str, ImageScores]:
    """Scores of text after images, by the label of each artifact whose tensors are ours to run."""
    engines = {s.label: engine for s in subjects if (engine := ours(s)) is not None}
    if not engines:
        return {}
    kept: dict[str, list[TokenScores]] = {label: [] for label in engines}
    progress("judging text after images", 0, len(rows), "vision tower")
    see_together([row.seen for row in rows])
    for number, row in enumerate(rows, 1):
        for label, scores in _row_scores(original, engines, row).items():
            kept[label].append(scores)
        progress("judging text after images", number, len(rows), "")
    return {label: summary(stack(done)) for label, done in kept.items() if done}


def summary(scores: TokenScores) -> ImageScores:
    """Of scores (rows, LENGTH)."""
    count, broken = len(scores.kl), int(scores.non_finite.sum())
    problem = (
        f"it computes NaN or infinite logits for {broken:,} of {scores.kl.size:,} tokens after "
        "images",
    )
    return ImageScores(
        summarize(scores, np.ones(count, bool)),
        window_scores(scores, ("images",) * count),
        problem if broken else (),
    )


def ours(subject: Subject) -> Engine | None:
    """The engine of an artifact if it takes embeddings, else one of ours; None where its tensors
    are not read."""
    if isinstance(subject.engine, OpsEngine) or own_tower(subject.engine):
        return subject.engine
    if subject.model is None:
        return None
    try:
        return open_engine(subject.model, "native", purpose="judging")
    except UnsupportedError:
        return open_engine(subject.model, "numpy")


def _row_scores(
    original: OpsEngine, engines: Mapping[str, Engine], row: ImageRow
) -> dict[str, TokenScores]:
    """Scores (LENGTH,) of each engine."""
    following = np.append(row.ids[row.judged.start + 1 :], -1)
    expected = SeeingEngine(original, row.seen).logits(row.ids[None])[0, row.judged]
    return {
        label: score(
            expected, SeeingEngine(engine, row.seen).logits(row.ids[None])[0, row.judged], following
        )
        for label, engine in engines.items()
    }
