"""Servers of llama.cpp in this process."""

from typing import Any

import pytest

from runtime.backends.llamacpp import Log, load_library


def start(settings: Any) -> Any:
    """A server with llama.cpp's own log. Its end waits for threads that log, and holds Python's
    lock meanwhile: a listener in Python, as engines set one, would never return."""
    xllamacpp: Any = pytest.importorskip("xllamacpp")
    load_library().llama_log_set(Log(), None)
    return xllamacpp.Server(settings)
