"""A model in several GGUF files."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from export.gguf_general import provenance
from quantize.report.subject import bytes_on_disk
from runtime.errors import EdgequantError
from runtime.gguf_file import open_gguf, read
from runtime.gguf_parts import part_paths
from tests.gguf_made import bytes_alphabet, tiny_gguf

PARTS = 3
MOST = 4
"""Tensors of a part; the model has 11."""


def written(path: Path, most: int = 0) -> Path:
    weight = {"blk.0.ffn_up.weight": np.random.default_rng(3).normal(size=(32, 32))}
    return tiny_gguf(path, [*bytes_alphabet(), "ab"], {}, weight, most=most)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return written(tmp_path / "whole.gguf")


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    written(tmp_path / "m.gguf", MOST)
    return [tmp_path / f"m-{at + 1:05}-of-{PARTS:05}.gguf" for at in range(PARTS)]


@pytest.mark.parametrize("named", range(PARTS))
def test_any_part_opens_the_whole_model(whole: Path, parts: list[Path], named: int) -> None:
    found, expected = open_gguf(parts[named]), open_gguf(whole)
    assert found.arch == expected.arch
    assert found.tokenizer is not None
    assert found.tokenizer.encode("ab c") == expected.tokenizer.encode("ab c")  # type: ignore[union-attr]
    assert set(found.tensors) == set(expected.tensors)
    for name in expected.tensors:
        np.testing.assert_array_equal(found.tensors[name].decode(), expected.tensors[name].decode())


def test_its_size_and_provenance_are_those_of_all_parts(whole: Path, parts: list[Path]) -> None:
    assert part_paths(parts[2]) == parts
    assert bytes_on_disk(parts[1]) == sum(part.stat().st_size for part in parts)
    assert part_paths(whole) == [whole]
    assert provenance(parts[2])["general.architecture"] == "llama"


def another_place(parts: list[Path]) -> Path:
    return parts[1].rename(parts[1].with_name("m-00003-of-00003.gguf"))


def another_name(parts: list[Path]) -> Path:
    return parts[1].rename(parts[1].with_name("second.gguf"))


def one_gone(parts: list[Path]) -> Path:
    parts[2].unlink()
    return parts[0]


def another_model(parts: list[Path]) -> Path:
    parts[1].write_bytes(parts[2].read_bytes())
    return parts[0]


REFUSED: dict[str, Callable[[list[Path]], Path]] = {
    "is part 2 of 3, and by its name .* rename it to end with -00002-of-00003.gguf": another_name,
    "m-00001-of-00003.gguf is part 1 of 3, but m-00003-of-00003.gguf is not beside it": one_gone,
    "m-00002-of-00003.gguf says that it is part 3 of 3, not part 2 of 3; download": another_model,
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_parts_that_are_no_model_are_refused(parts: list[Path], sentence: str) -> None:
    with pytest.raises(EdgequantError, match=sentence):
        read(REFUSED[sentence](parts))


def test_a_part_under_the_name_of_another_is_refused(parts: list[Path]) -> None:
    with pytest.raises(EdgequantError, match="rename it to end with -00002-of-00003.gguf"):
        read(another_place(parts))


def replaced(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))


def test_a_wrong_number_of_tensors_is_refused(parts: list[Path]) -> None:
    key, kind = b"split.tensors.count", struct.pack("<I", 5)
    number = [key + kind + struct.pack("<i", count) for count in (11, 12)]
    replaced(parts[0], *number)
    with pytest.raises(EdgequantError, match="the parts hold 12 tensors, but there are 11;"):
        read(parts[0])


def test_a_tensor_of_two_parts_is_refused(parts: list[Path]) -> None:
    replaced(parts[2], b"blk.0.ffn_up.weight", b"blk.0.attn_q.weight")
    with pytest.raises(EdgequantError, match="a part before it has the tensor"):
        read(parts[0])


def test_a_count_that_is_no_number_is_refused(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "x.gguf", bytes_alphabet(), {"split.count": "three"})
    with pytest.raises(EdgequantError, match="split.count is 'three', not a whole number"):
        read(path)
