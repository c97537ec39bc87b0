"""The calibration text of a run, kept in its work folder."""

import numpy as np

from quantize.calibration.calibration_text import load_text, with_images
from quantize.calibration.rows import Rows, rows_of
from quantize.run.job import Job


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
