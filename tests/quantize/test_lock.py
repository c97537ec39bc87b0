"""The lock of a work folder: one run at a time, whatever the moment."""

import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest

from quantize.run.resume import Work
from runtime.errors import InputError

SECONDS = 3.0


def contend(folder: Path, until: float, twice: Any) -> None:
    """Take the lock again and again; count each time that somebody else was inside."""
    while time.time() < until:
        try:
            with Work(folder, {"model": {"name": "x"}}).locked():
                mark = folder.parent / "inside"
                try:
                    mark.mkdir()
                except FileExistsError:
                    twice.value += 1
                else:
                    mark.rmdir()
        except InputError:
            continue


def test_two_runs_are_never_inside_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    twice = context.Value("i", 0)
    folder, until = tmp_path / "out" / ".edgequant", time.time() + SECONDS
    others = [context.Process(target=contend, args=(folder, until, twice)) for _ in range(4)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0] * 4
    assert twice.value == 0


def test_a_second_run_is_told_of_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "out" / ".edgequant"
    with (
        Work(folder, {"model": {"name": "x"}}).locked(),
        pytest.raises(InputError, match="another run is working in"),
        Work(folder, {"model": {"name": "x"}}).locked(),
    ):
        pass
