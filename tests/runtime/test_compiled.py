"""The kernels of who can do without them."""

import runpy
import sys

import pytest

import runtime
from runtime import compiled


def test_where_nothing_is_compiled_there_are_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "runtime._native", None)
    monkeypatch.delattr(runtime, "_native", raising=False)
    assert runpy.run_path(str(compiled.__file__))["kernels"] is None


def test_the_kernels_are_the_compiled_module() -> None:
    assert compiled.kernels is pytest.importorskip("runtime._native")
