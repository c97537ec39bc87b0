"""Fixtures of this folder."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quantize import cli
from quantize.checkpoint import bundled
from tests.conftest import CONFIGS, SIZES
from tests.random_checkpoint import random_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A random Qwen2 that a test changes."""
    random_checkpoint(tmp_path / "model", SIZES | CONFIGS["qwen2-tied"], bundled())
    return tmp_path / "model"


@pytest.fixture
def ctrl_c(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """SIGINT is this process's own again after a test that runs the program in it."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ctrl_c: None) -> Any:
    """Run a command line in this process: exit code, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        # tests beside each other run in processes that ignore it
        signal.signal(signal.SIGINT, signal.default_int_handler)
        monkeypatch.setattr(sys, "argv", ["quantize", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return call
