"""Calibration text as token windows, and images with captions, for a run and for an importance
matrix alike."""

from collections.abc import Callable

import calib_data
from quantize.calibration.image_text import ImageText, image_rows, mixed
from quantize.calibration.rows import Rows
from quantize.checkpoint import Checkpoint
from quantize.progress import Progress, silent
from runtime.engine import open_engine
from runtime.errors import InputError
from runtime.generate import generate
from runtime.sample import Sampler


def load_text(
    checkpoint: Checkpoint,
    spec: str,
    rows: int,
    length: int,
    seed: int,
    progress: Progress = silent,
) -> calib_data.Windows:
    """Windows (rows, length) of a calibration spec; "self" is text that the model itself writes.

    The caller tells `progress` of the end, when it has stored what it must keep.
    Raises CalibrationError for a spec that is unknown or has too little text.
    """
    progress("calibration text", 0, 1, spec)
    draw = writer(checkpoint) if spec == "self" else None
    return calib_data.load(spec, checkpoint.tokenizer, rows, length, seed, generate=draw)


def with_images(
    text: calib_data.Windows,
    images: ImageText | None,
    checkpoint: Checkpoint,
    progress: Progress = silent,
) -> tuple[calib_data.Windows, Rows]:
    """What the layers see: the text, and rows of images among it where there are some."""
    if images is None:
        return text, Rows(text.ids)
    progress("calibration images", 0, 1, "vision tower")
    found = mixed(text, image_rows(images, checkpoint))
    progress("calibration images", 1, 1, f"{images.seen} images")
    return found


def check_length(length: int, context: int) -> None:
    """Raise InputError for windows that the model was never meant to read."""
    if length > context:
        raise InputError(
            f"--calib-length must be at most the model's context of {context}, not {length}."
        )


def writer(checkpoint: Checkpoint) -> Callable[[int, int, int], list[list[int]]]:
    """Documents drawn from the full-precision model itself, for `--calibration self`."""
    engine = open_engine(checkpoint.model(), "torch")
    start = checkpoint.tokenizer.separator or 0

    def draw(count: int, length: int, seed: int) -> list[list[int]]:
        samplers = (Sampler(1.0, top_p=0.95, seed=seed + row) for row in range(count))
        return [list(generate(engine, [start], length, sampler)) for sampler in samplers]

    return draw
