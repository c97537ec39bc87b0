"""Calibration text as token windows: the built-in one, the user's, and what a model writes."""

from pathlib import Path

import numpy as np
import pytest

from calib_data import CalibrationError
from quantize.calibration.calibration_text import load_text
from quantize.checkpoint import open_checkpoint


def test_loading_tells_what_it_starts_to_read(random_models: dict[str, Path]) -> None:
    told: list[tuple[str, int, int, str]] = []
    checkpoint = open_checkpoint(random_models["qwen2-tied"])
    text = load_text(checkpoint, "builtin", 2, 32, 0, lambda *step: told.append(step))
    assert text.ids.shape == (2, 32)
    assert told == [("calibration text", 0, 1, "builtin")]


def test_a_model_writes_other_text_for_another_seed(random_models: dict[str, Path]) -> None:
    checkpoint = open_checkpoint(random_models["llama-untied"])
    texts = [load_text(checkpoint, "self", 2, 16, seed).ids for seed in (0, 0, 1)]
    assert np.array_equal(texts[0], texts[1])
    assert not np.array_equal(texts[0], texts[2])
    assert set(texts[0].ravel()) <= set(range(checkpoint.arch.vocab))


def test_a_text_that_is_not_there_is_refused(random_models: dict[str, Path]) -> None:
    checkpoint = open_checkpoint(random_models["qwen2-tied"])
    with pytest.raises(CalibrationError, match=r"^There is no calibration text none.txt"):
        load_text(checkpoint, "none.txt", 1, 32, 0)
