"""The calibration text of a run, kept in its work folder."""

from pathlib import Path

import numpy as np

from calib_data.files import is_file
from quantize.calibration.calibration_text import load_text, with_images
from quantize.calibration.rows import Rows, image_bytes, rows_of
from quantize.run.cost import FLOAT, Cost
from quantize.run.job import Job
from quantize.run.resume import ENTRY


def calibration(job: Job) -> Rows:
    """Windows of text, and of images, kept so that a continued run sees the same."""
    entry, ask, source = job.store.calibration, job.calibration, job.checkpoint
    if not entry.done:
        text = load_text(source, ask.spec, ask.text_rows, ask.length, ask.seed, job.progress)
        text, rows = with_images(text, ask.images, source, job.progress)
        entry.save(rows.arrays() | {"domains": np.array(text.domains)})
        notes = (*ask.image_notes, *text.left_out)
        entry.finish(sha256=text.sha256, summary=text.summary(), notes=notes)
    job.progress("calibration text", 1, 1, entry.facts["summary"])
    return rows_of(source.arch, entry.load, ask.image_rows)


def text_cost(job: Job) -> Cost:
    """Of the calibration text: its tokens, int32, and what stands for images."""
    ask = job.calibration
    images = image_bytes(job.checkpoint.arch, ask.image_rows, ask.length)
    if not job.reads_text:
        return Cost()
    kept = FLOAT * ask.tokens + images + ENTRY
    file = Path(ask.spec)
    stored = file.stat().st_size if is_file(ask.spec) and file.is_file() else 0
    memory = READ * stored + TOKEN * ask.tokens if stored else 0
    return Cost(memory=memory, what=f"reading {ask.spec}", disk=kept, kept=kept)


READ = 4
"""Bytes of a file of text while it is read, over those on the disk: it, its text and documents."""
TOKEN = 2 * 700
"""Bytes of a token while text is tokenized; of a long text about twice as many as are wanted are.
"""
