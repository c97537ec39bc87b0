"""What is said before a model is loaded that does not fit in memory."""

from pathlib import Path

import numpy as np
import pytest

from runtime import memory
from runtime.errors import EdgequantError

GIB = 2**30


@pytest.fixture
def a_gibibyte(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with 1 GiB to spare."""
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:  8000000 kB\nMemAvailable:    1048576 kB\n")
    left = memory.available(path)
    monkeypatch.setattr(memory, "available", lambda: left)


def test_available_memory_is_read_in_bytes(tmp_path: Path) -> None:
    path = tmp_path / "meminfo"
    path.write_text("MemFree:  12 kB\nMemAvailable:    2048 kB\nCached: 7 kB\n")
    assert memory.available(path) == 2048 * 1024


def test_a_system_that_does_not_say_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "meminfo"
    assert memory.available(path) is None
    path.write_text("MemFree:  12 kB\n")
    assert memory.available(path) is None
    monkeypatch.setattr(memory, "available", lambda: None)
    memory.need(2**60, 2**60, 10)


def test_what_fits_is_not_refused(a_gibibyte: None) -> None:
    memory.need(GIB)
    memory.need(GIB // 2, GIB // 2, 4096)


def test_weights_that_do_not_fit_are_refused_with_the_sizes(a_gibibyte: None) -> None:
    with pytest.raises(EdgequantError) as error:
        memory.need(3 * GIB)
    assert str(error.value) == (
        "3.00 GiB of weights do not fit in the 1.00 GiB of memory that are available; "
        "close other programs, or take a smaller type or a smaller model."
    )


def test_a_cache_that_does_not_fit_beside_the_weights_is_refused(a_gibibyte: None) -> None:
    with pytest.raises(EdgequantError) as error:
        memory.need(GIB // 2, GIB, 4096)
    assert str(error.value) == (
        "0.50 GiB of weights and 1.00 GiB of KV cache do not fit in the 1.00 GiB of memory that "
        "are available; close other programs, or take a smaller type, fewer tokens than 4,096 or a "
        "smaller model."
    )


def test_only_arrays_in_files_are_mapped(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(64))
    mapped = np.memmap(tmp_path / "data", np.uint8, "r")
    view = np.frombuffer(mapped.data, np.uint8)
    assert memory.is_mapped(mapped)
    assert memory.is_mapped(mapped[8:40].reshape(4, 8))
    assert memory.is_mapped(view[1:])
    assert not memory.is_mapped(mapped[::2].copy())
    assert not memory.is_mapped(np.frombuffer(bytes(8), np.uint8))
