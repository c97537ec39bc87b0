"""Reading safetensors: the bytes that were written come back, and damage is one sentence."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from runtime.errors import EdgequantError
from runtime.safetensors_file import read

VALUES = {
    "a": torch.arange(15, dtype=torch.float32).reshape(3, 5),
    "b": torch.linspace(-1, 1, 7).bfloat16(),
    "c": torch.linspace(-1, 1, 6).half().reshape(1, 2, 3),
    "d": torch.arange(4),
    "e": torch.zeros(0, 3),
}
DTYPES = {"a": "F32", "b": "BF16", "c": "F16", "d": "I64", "e": "F32"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of every type that a checkpoint has, made by the package that owns the format."""
    path = tmp_path_factory.mktemp("safetensors") / "x.safetensors"
    save_file(VALUES, path, metadata={"format": "pt"})
    return path


def file_of(path: Path, header: Any, data: bytes) -> Path:
    """A file with a header of any kind."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def line(start: int, stop: int, shape: list[int] | None = None, dtype: str = "U8") -> Any:
    """A line of the header."""
    shape = [stop - start] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def test_every_array_has_the_bytes_that_were_written(written: Path) -> None:
    arrays = read(written)
    assert arrays.keys() == VALUES.keys()
    for name, value in VALUES.items():
        assert (arrays[name].dtype, arrays[name].shape) == (DTYPES[name], tuple(value.shape))
        assert arrays[name].read().tobytes() == value.view(torch.uint8).numpy().tobytes()


def test_what_is_read_is_a_view_of_the_mapped_file(written: Path) -> None:
    data = read(written)["a"].read()
    assert not data.flags.owndata
    assert not data.flags.writeable


def test_numbers_at_odd_bytes_are_copied_to_where_kernels_can_load_them(tmp_path: Path) -> None:
    table = {"bytes": line(0, 1), "numbers": line(1, 9, [2], "F32")}
    data = b"\x07" + np.array([1.5, -2], "<f4").tobytes()
    for spaces in range(4):
        text = json.dumps(table).encode() + b" " * spaces
        numbers = read(file_of(tmp_path / "x", text, data))["numbers"].read()
        assert numbers.ctypes.data % 4 == 0
        assert numbers.view("<f4").tolist() == [1.5, -2]


DAMAGE: dict[str, tuple[Any, bytes, str]] = {
    "no JSON": (b"{", b"", "bytes hold no header"),
    "broken JSON": (b'{"a": ', b"", "its header is no table of arrays"),
    "not UTF-8": (b'{"\xff": 1}', b"", "its header is no table of arrays"),
    "a list": ([1, 2], b"", "its header is no table of arrays"),
    "nested too deep": (b"[" * 100_000, b"", "its header is no table of arrays"),
    "no offsets": ({"a": {"dtype": "U8", "shape": [1]}}, b"1", "no table of arrays"),
    "a number for a line": ({"a": 1}, b"1", "its header is no table of arrays"),
    "negative sides": ({"a": line(0, 4, [-2, -2])}, b"1234", "no table of arrays"),
    "offsets backwards": ({"a": line(4, 0, [0], "F8")}, b"1234", "no table of arrays"),
    "offsets in text": ({"a": line(0, 4) | {"data_offsets": ["0", "4"]}}, b"1234", "no table"),
    "another size": ({"a": line(0, 4, [2], "F32")}, b"1234", "its header is no table of arrays"),
    "overlap": ({"a": line(0, 3), "b": line(2, 4)}, b"1234", "b starts at 2 of the data, not at 3"),
    "gap": ({"a": line(0, 1), "b": line(2, 4)}, b"1234", "b starts at 2 of the data, not at 1"),
    "more data": ({"a": line(0, 3)}, b"1234", r"it has \d+ bytes, not \d+"),
    "less data": ({"a": line(0, 6)}, b"1234", r"it has \d+ bytes, not \d+"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_told_with_the_way_out(what: str, tmp_path: Path) -> None:
    header, data, message = DAMAGE[what]
    path = file_of(tmp_path / "x", header, data)
    if what == "no JSON":
        path.write_bytes(path.read_bytes()[:8])
    with pytest.raises(EdgequantError, match="x is cut short or damaged .*; download it") as caught:
        read(path)
    caught.match(message)


@pytest.mark.parametrize("length", [0, 7, 8, 40, -1])
def test_a_file_cut_anywhere_is_refused(written: Path, tmp_path: Path, length: int) -> None:
    (tmp_path / "x").write_bytes(written.read_bytes()[:length])
    with pytest.raises(EdgequantError, match="x is cut short or damaged"):
        read(tmp_path / "x")


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgequantError, match=r"is cut short or damaged \(Is a directory\)"):
        read(tmp_path)


@settings(deadline=None, max_examples=150)
@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_flipped_bits_never_end_in_another_error(written: Path, place: float, mask: int) -> None:
    sound = written.read_bytes()
    at = int(place * (len(sound) - 100))
    path = written.with_name("flipped")
    path.write_bytes(sound[:at] + bytes([sound[at] ^ mask]) + sound[at + 1 :])
    try:
        arrays = read(path)
    except EdgequantError:
        return
    # who meets a type that is not known here never reads the array
    known = [array for array in arrays.values() if array.dtype in DTYPES.values()]
    assert all(len(array.read()) == array.nbytes for array in known)


def test_a_file_that_is_cut_or_gone_after_it_was_opened_is_told(
    written: Path, tmp_path: Path
) -> None:
    for change in (lambda p: p.write_bytes(b"short"), lambda p: p.unlink()):
        path = tmp_path / "x"
        path.write_bytes(written.read_bytes())
        arrays = read(path)
        change(path)
        with pytest.raises(EdgequantError, match="x changed after it was opened .*; open it again"):
            arrays["a"].read()
