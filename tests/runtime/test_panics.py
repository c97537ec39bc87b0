"""Panics of libraries in Rust become sentences; other exceptions pass as they are."""

import sys

import pytest

from quantize.cli import program
from runtime.errors import CorruptFileError
from runtime.panics import is_panic, panics


class PanicException(BaseException):
    """As pyo3 makes it."""

    __module__ = "pyo3_runtime"


def test_a_panic_names_what_was_read() -> None:
    with (
        pytest.raises(CorruptFileError, match=r"a.json makes the library .* fail \(no number\);"),
        panics("a.json"),
    ):
        raise PanicException("no number\nat line 3")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError, SystemExit])
def test_other_exceptions_pass(kind: type[BaseException]) -> None:
    assert not is_panic(kind())
    with pytest.raises(kind), panics("a.json"):
        raise kind


def test_a_panic_elsewhere_is_a_fault_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise PanicException("no number")

    monkeypatch.setattr(program, "app", fail)
    monkeypatch.setattr(sys, "argv", ["quantize"])
    assert program.run() == 3
    assert "this is a fault of the program: PanicException: no number" in capsys.readouterr().err
