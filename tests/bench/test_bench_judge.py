"""What files are judged on, and that only the second half of a window counts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import judge
from quantize.checkpoint import Checkpoint
from runtime.engine import open_engine
from runtime.errors import EdgequantError

WORDS = "The history of the city began long before its walls. "


class Shifted:
    """The original engine, whose first `count` positions predict something else."""

    def __init__(self, engine: Any, count: int) -> None:
        self.engine, self.count = engine, count
        self.arch, self.tokenizer = engine.arch, engine.tokenizer

    def new_cache(self, batch: int, capacity: int) -> Any:
        return self.engine.new_cache(batch, capacity)

    def logits(self, ids: np.ndarray, cache: Any = None, last: bool = False) -> np.ndarray:
        out = self.engine.logits(ids, cache, last).copy()
        out[:, : self.count] = out[:, : self.count, ::-1]
        return out


def test_the_first_half_of_a_window_does_not_count(tiny: Checkpoint) -> None:
    engine = open_engine(tiny.model(), "torch")
    texts = judge.read(tiny, [], 1)
    half = judge.LENGTH // 2
    candidates = {"first": Shifted(engine, half), "second": Shifted(engine, half + 1)}
    found = judge.judge(engine, candidates, texts)
    assert found["first"].mean == 0
    assert found["second"].mean > 0


def test_the_mean_is_over_windows_not_over_texts() -> None:
    judged = judge.Judged({"a": np.array([1.0, 1.0, 1.0]), "b": np.array([5.0])})
    assert (judged.mean, judged.of("b")) == (2.0, 5.0)


def test_a_text_gives_its_first_windows(tiny: Checkpoint, tmp_path: Path) -> None:
    file = tmp_path / "city.txt"
    file.write_text(WORDS * 200, encoding="utf-8")
    ids = tiny.tokenizer.encode(WORDS * 200)
    windows = judge.read(tiny, [file], 2)["city"]
    assert windows.shape == (2, judge.LENGTH)
    assert windows.ravel().tolist() == ids[: 2 * judge.LENGTH]


def test_a_text_without_a_whole_window_is_refused(tiny: Checkpoint, tmp_path: Path) -> None:
    file = tmp_path / "short.txt"
    file.write_text(WORDS, encoding="utf-8")
    with pytest.raises(EdgequantError, match=r"short.txt has \d+ tokens.*give a longer text"):
        judge.read(tiny, [file], 2)


def test_two_texts_of_one_name_are_refused(tiny: Checkpoint, tmp_path: Path) -> None:
    files = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        files.append(tmp_path / folder / "text.txt")
        files[-1].write_text(WORDS * 200, encoding="utf-8")
    with pytest.raises(EdgequantError, match=r"two of the texts are called text.txt; rename one"):
        judge.read(tiny, files, 1)
