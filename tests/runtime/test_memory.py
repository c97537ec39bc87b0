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
    memory.require_memory(2**60, 2**60, 10)


def test_what_fits_is_not_refused(a_gibibyte: None) -> None:
    memory.require_memory(GIB)
    memory.require_memory(GIB // 2, GIB // 2, 4096)


def test_weights_that_do_not_fit_are_refused_with_the_sizes(a_gibibyte: None) -> None:
    with pytest.raises(EdgequantError) as error:
        memory.require_memory(3 * GIB)
    assert str(error.value) == (
        "3.00 GiB of weights do not fit in the 1.00 GiB of memory that are available; "
        "close other programs, or take a smaller type or a smaller model."
    )


def test_a_cache_that_does_not_fit_beside_the_weights_is_refused(a_gibibyte: None) -> None:
    with pytest.raises(EdgequantError) as error:
        memory.require_memory(GIB // 2, GIB, 4096)
    assert str(error.value) == (
        "0.50 GiB of weights and 1.00 GiB of KV cache do not fit in the 1.00 GiB of memory that "
        "are available; close other programs, or take a smaller type, fewer tokens than 4,096 or a "
        "smaller model."
    )


def test_only_arrays_in_files_are_mapped(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(64))
    mapped = np.memmap(tmp_path / "data", np.uint8, "r")
    view = np.frombuffer(mapped.data, np.uint8)
    assert memory.mapping_of(mapped)
    assert memory.mapping_of(mapped[8:40].reshape(4, 8))
    assert memory.mapping_of(view[1:]) is memory.mapping_of(mapped)
    assert not memory.mapping_of(mapped[::2].copy())
    assert not memory.mapping_of(np.frombuffer(bytes(8), np.uint8))


def test_a_cache_is_told_alone_when_the_weights_are_in_memory(a_gibibyte: None) -> None:
    with pytest.raises(EdgequantError, match="^2.00 GiB of KV cache do not fit in the 1.00 GiB"):
        memory.require_memory(0, 2 * GIB, 10)


def test_there_is_room_when_it_holds_the_weights_twice(
    a_gibibyte: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "HUGE_PAGES", tmp_path / "enabled")
    assert not memory.has_room(1)
    memory.HUGE_PAGES.write_text("always [madvise] never\n")
    assert memory.has_room(GIB // 2)
    assert not memory.has_room(GIB // 2 + 1)
    memory.HUGE_PAGES.write_text("always madvise [never]\n")
    assert not memory.has_room(1)


def test_copied_arrays_are_equal_and_in_no_file(tmp_path: Path) -> None:
    shapes = [(7, 300), (1, 5), (64, 64)]
    path, random = tmp_path / "data", np.random.default_rng(0)
    path.write_bytes(random.bytes(sum(rows * cols for rows, cols in shapes)))
    mapped, at, arrays = np.memmap(path, np.uint8, "r"), 0, []
    for rows, cols in shapes:
        arrays.append(mapped[at : at + rows * cols].reshape(rows, cols))
        at += rows * cols
    told: list[int] = []
    copies = memory.copy_to_huge_pages(arrays, told.append)
    assert told == [rows * cols for rows, cols in shapes]
    in_pieces: list[int] = []
    pieces = memory.copy_to_huge_pages(arrays, in_pieces.append, most=2000)
    assert in_pieces == [2000, 100, 5, 2000, 2000, 96]
    for copy, piece in zip(copies, pieces, strict=True):
        np.testing.assert_array_equal(piece, copy)
    memory.drop_pages(arrays)
    for data, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(copy, data)
        assert memory.mapping_of(copy) is None
        assert (copy.ctypes.data - copies[0].ctypes.data) % memory.ALIGNMENT == 0
