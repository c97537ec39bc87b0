"""What the llama.cpp backend says where it cannot run; tests/interop has the rest."""

import platform
import sys

import pytest

from runtime.backends import llamacpp
from runtime.errors import EdgequantError


def test_a_missing_package_is_said_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(EdgequantError, match="needs xllamacpp; pip install xllamacpp."):
        llamacpp.load_library.__wrapped__()


def test_another_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(EdgequantError, match="not on .* aarch64; use the native backend"):
        llamacpp.load_library.__wrapped__()
