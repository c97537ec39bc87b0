"""Importance matrices are read as llama-imatrix writes them, and refused when they cannot be right.

The files are made here with the gguf package, or packed by hand (.dat).
"""

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from quantize.calibration.imatrix import Imatrix, for_model, read, write
from runtime.archs import FAMILIES, Arch
from runtime.errors import EdgequantError
from runtime.gguf_file import open_gguf
from tests.conftest import config

Tensors = dict[str, np.ndarray]


class Bare(GGUFWriter):
    """Without `general.architecture`, as llama-imatrix leaves it out."""

    def add_architecture(self) -> None:
        pass


def write_gguf(path: Path, tensors: Tensors, kind: str = "imatrix") -> Path:
    """A file with llama-imatrix's metadata: two windows of 512 tokens."""
    writer = Bare(path, "")
    writer.add_type(kind)
    writer.add_array("imatrix.datasets", ["first.txt", "second.txt"])
    writer.add_uint32("imatrix.chunk_count", 2)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, values in tensors.items():
        writer.add_tensor(name, np.asarray(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def sums(**changes: Any) -> Tensors:
    """What llama-imatrix stores of two linears, its sums of plain inputs included."""
    return {
        "blk.0.attn_q.weight.in_sum2": np.array([1024.0, 2048, 0, 512]),
        "blk.0.attn_q.weight.counts": np.array([1024.0]),
        "blk.0.attn_q.weight.in_sum": np.array([3.0, -5, 0, 7]),
        "blk.0.ffn_down.weight.in_sum2": np.array([1.0, 3]),
        "blk.0.ffn_down.weight.counts": np.array([2.0]),
    } | {key.replace("q_", "blk.0.attn_q.weight."): value for key, value in changes.items()}


def write_dat(path: Path, means: Tensors, windows: int, end: bytes | None = None) -> Path:
    """A file of the older format; `end` takes the place of the windows and the data set's name."""
    data = struct.pack("<i", len(means))
    for name, mean in means.items():
        data += struct.pack("<i", len(name)) + name.encode()
        data += struct.pack("<ii", windows, len(mean))
        data += np.asarray(np.asarray(mean) * windows, "<f4").tobytes()
    name_of_text = struct.pack("<ii", windows, 9) + b"notes.txt"
    path.write_bytes(data + (name_of_text if end is None else end))
    return path


def test_a_file_of_llama_imatrix_is_read(tmp_path: Path) -> None:
    found = read(write_gguf(tmp_path / "a.gguf", sums()))
    assert found.means.keys() == {"blk.0.attn_q.weight", "blk.0.ffn_down.weight"}
    assert found.means["blk.0.attn_q.weight"].tolist() == [1, 2, 0, 0.5]
    assert found.means["blk.0.ffn_down.weight"].tolist() == [0.5, 1.5]
    assert found.means["blk.0.ffn_down.weight"].dtype == np.float32
    assert found.counts == {"blk.0.attn_q.weight": 1024, "blk.0.ffn_down.weight": 2}
    assert found.datasets == ("first.txt", "second.txt")
    assert (found.chunks, found.chunk_size) == (2, 512)


def test_a_tensor_with_one_matrix_may_have_two_dimensions(tmp_path: Path) -> None:
    two = {key: values.reshape(1, -1) for key, values in sums().items()}
    found = read(write_gguf(tmp_path / "a.gguf", two))
    assert found.means["blk.0.attn_q.weight"].tolist() == [1, 2, 0, 0.5]


@pytest.mark.parametrize("end", [None, b""], ids=["whole", "first versions"])
def test_a_dat_file_is_read(end: bytes | None, tmp_path: Path) -> None:
    means = {"blk.0.attn_q.weight": np.array([0.5, 2, 0]), "output.weight": np.array([3.0])}
    found = read(write_dat(tmp_path / "imatrix.dat", means, 7, end))
    assert {name: mean.tolist() for name, mean in found.means.items()} == {
        "blk.0.attn_q.weight": [0.5, 2, 0],
        "output.weight": [3],
    }
    assert (found.datasets, found.chunks) == ((), 0) if end == b"" else (("notes.txt",), 7)


def wrong_gguf(**changes: Any) -> Callable[[Path], Path]:
    return lambda folder: write_gguf(folder / "a.gguf", sums(**changes))


def raw(data: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "a.dat").write_bytes(data)
        return folder / "a.dat"

    return make


def dat(windows: int = 7, name: str = "blk", end: bytes | None = None) -> Callable[[Path], Path]:
    return lambda folder: write_dat(folder / "a.dat", {name: np.ones(3)}, windows, end)


def cut(folder: Path) -> Path:
    path = write_gguf(folder / "a.gguf", sums())
    path.write_bytes(path.read_bytes()[:-40])
    return path


def without(suffix: str, folder: Path) -> Path:
    rest = {key: value for key, value in sums().items() if not key.endswith(suffix)}
    return write_gguf(folder / "a.gguf", rest)


NAN = float("nan")
WRONG: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda f: f / "a.gguf", "there is no imatrix .*a.gguf; make one with `quantize im"),
    "a model": (
        lambda f: write_gguf(f / "a.gguf", sums(), "model"),
        "is a GGUF file of type 'model' and not an imatrix; make one with",
    ),
    "empty": (lambda f: without("", f), "is an imatrix without any tensor; make one"),
    "no counts": (
        lambda f: without("q.weight.counts", f),
        "has blk.0.attn_q.weight.in_sum2 without blk.0.attn_q.weight.counts; make one",
    ),
    "nan": (
        wrong_gguf(q_in_sum2=np.array([NAN, 1, float("inf"), 1])),
        "blk.0.attn_q.weight in .* has 2 values of 4 that are NaN, infinite or negative; make",
    ),
    "negative": (wrong_gguf(q_in_sum2=np.array([-1.0])), "has 1 values of 1 that are NaN, infinit"),
    "zero": (wrong_gguf(q_counts=np.array([0.0])), "has a count of 0, so no text went through it"),
    "nan count": (wrong_gguf(q_counts=np.array([NAN])), "has a count of nan, so no text went"),
    "experts": (
        wrong_gguf(q_in_sum2=np.ones((2, 4)), q_counts=np.ones((3, 1))),
        "has counts for 3 experts and 8 sums, which do not go together; make one",
    ),
    "cut": (cut, "is cut short or damaged: .* copy or download it again"),
    "text": (raw(b"The history of the city"), "is not an imatrix: it is neither a GGUF file nor"),
    "nothing": (raw(b""), "is not an imatrix: it is neither a GGUF file nor"),
    "dat, cut": (
        dat(end=b"\x07\0\0\0\x09\0\0\0not"),
        "is cut short or damaged: 6 bytes are missing",
    ),
    "dat, zero": (dat(windows=0), "blk in .* has a count of 0, so no text went through it"),
    "dat, no channels": (
        raw(struct.pack("<ii3siif", 1, 3, b"blk", 7, 0, 1)),
        "is damaged: 'blk' has 0 channels",
    ),
    "dat, length": (raw(struct.pack("<ii20s", 1, -3, b"")), "a name has the length -3"),
    "dat, name": (raw(struct.pack("<ii20s", 1, 3, b"\xff" * 3)), "name before byte 11 is not UTF"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_file_is_refused_in_one_sentence(what: str, tmp_path: Path) -> None:
    make, message = WRONG[what]
    path = make(tmp_path)
    with pytest.raises(EdgequantError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def made() -> Imatrix:
    """An importance matrix of two linears, out of order."""
    random = np.random.default_rng(0)
    means = {
        name: random.exponential(size=size).astype(np.float32)
        for name, size in (("blk.1.ffn_up.weight", 96), ("blk.0.attn_q.weight", 64))
    }
    return Imatrix(means, dict.fromkeys(means, 3 * 700), ("notes.txt",), 3, 700)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write(tmp_path / "a.gguf", made())
    found = read(tmp_path / "a.gguf")
    assert replace(found, means={}) == replace(made(), means={})
    for name, mean in made().means.items():
        np.testing.assert_allclose(found.means[name], mean, rtol=1e-6)


def test_more_tokens_than_float32_counts_can_be_written(tmp_path: Path) -> None:
    many = replace(made(), counts=dict.fromkeys(made().means, (1 << 24) + 1))
    write(tmp_path / "a.gguf", many)
    assert set(read(tmp_path / "a.gguf").counts.values()) == {1 << 24}


def test_a_written_file_has_llama_imatrix_s_keys_names_and_shapes(tmp_path: Path) -> None:
    write(tmp_path / "a.gguf", made())
    reader = GGUFReader(tmp_path / "a.gguf")
    keys = {key: field.contents() for key, field in reader.fields.items() if key[:4] != "GGUF"}
    assert keys == {
        "general.type": "imatrix",
        "imatrix.datasets": ["notes.txt"],
        "imatrix.chunk_count": 3,
        "imatrix.chunk_size": 700,
    }
    tensors = [(t.name, t.tensor_type.name, t.shape.tolist()) for t in reader.tensors]
    assert tensors == [
        ("blk.0.attn_q.weight.in_sum2", "F32", [64]),
        ("blk.0.attn_q.weight.counts", "F32", [1]),
        ("blk.1.ffn_up.weight.in_sum2", "F32", [96]),
        ("blk.1.ffn_up.weight.counts", "F32", [1]),
    ]
    assert reader.tensors[1].data.tolist() == [2100]
    mean = made().means["blk.0.attn_q.weight"]
    np.testing.assert_allclose(reader.tensors[0].data, mean * 2100, rtol=1e-6)


def test_values_that_cannot_be_used_are_not_left_on_the_disk(tmp_path: Path) -> None:
    spoiled = made()
    spoiled.means["blk.0.attn_q.weight"][3] = NAN
    with pytest.raises(EdgequantError, match="has 1 values of 64 that are NaN"):
        write(tmp_path / "a.gguf", spoiled)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept_unless_it_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_text("precious")
    with pytest.raises(EdgequantError, match="a.gguf already exists; choose another name, or use"):
        write(path, made())
    assert path.read_text() == "precious"
    write(path, made(), overwrite=True)
    assert read(path).chunks == 3


def test_an_imatrix_is_not_opened_as_a_model(tmp_path: Path) -> None:
    write(tmp_path / "a.gguf", made())
    with pytest.raises(EdgequantError, match="is an importance matrix and not a model; give it to"):
        open_gguf(tmp_path / "a.gguf")


@pytest.fixture
def arch() -> Arch:
    return FAMILIES["qwen2"].arch(config("qwen2-tied"))


def whole(arch: Arch, folder: Path, drop: str = "", **more: int) -> Path:
    """An importance matrix of ones for every linear of a model; `more`: name -> channels."""
    shapes = {n: s[1] for n, s in arch.shapes().items() if len(s) == 2}
    names = {name: cols for name, cols in shapes.items() if name.startswith("blk.")}
    means = {n: np.ones(c, np.float32) for n, c in (names | more).items() if n != drop}
    write(folder / "a.gguf", Imatrix(means, dict.fromkeys(means, 9), (), 1, 9))
    return folder / "a.gguf"


def test_no_file_is_no_imatrix(arch: Arch) -> None:
    assert for_model(None, arch) is None


@pytest.mark.parametrize("head", ["output.weight", "token_embd.weight", None])
def test_an_imatrix_fits_its_model_with_and_without_the_head(
    head: str | None, arch: Arch, tmp_path: Path
) -> None:
    path = whole(arch, tmp_path, **({head: 96} if head else {}))
    found = for_model(path, arch)
    assert found is not None
    assert len(found.means) == 14 + (head is not None)


def test_an_imatrix_of_another_width_is_refused_by_shape(tmp_path: Path) -> None:
    path = whole(FAMILIES["qwen2"].arch(config("qwen2-tied", hidden_size=256)), tmp_path)
    other = FAMILIES["qwen2"].arch(config("qwen2-tied", hidden_size=864))
    message = r"^blk\.\d\.\w+ has 864 channels and the imatrix 256; .* of another model: make one"
    with pytest.raises(EdgequantError, match=message):
        for_model(path, other)


@pytest.mark.parametrize("head", ["output.weight", "token_embd.weight"])
def test_a_head_of_another_width_is_refused(head: str, arch: Arch, tmp_path: Path) -> None:
    part = head.removesuffix(".weight")
    with pytest.raises(EdgequantError, match=f"^{part} has 96 channels and the imatrix 64; "):
        for_model(whole(arch, tmp_path, **{head: 64}), arch)


def test_an_imatrix_of_fewer_layers_or_linears_is_refused(arch: Arch, tmp_path: Path) -> None:
    deep = replace(arch, layers=3)
    path = whole(arch, tmp_path)
    with pytest.raises(
        EdgequantError, match="is missing 7 of the model's 21 linears, the first is blk"
    ):
        for_model(path, deep)
    path.unlink()
    path = whole(arch, tmp_path, drop="blk.1.attn_k.weight")
    message = (
        r"is missing 1 of the model's 14 linears, the first is blk\.1\.attn_k\.weight; it was made"
    )
    with pytest.raises(EdgequantError, match=message):
        for_model(path, arch)


def test_an_imatrix_with_unknown_layers_is_refused(arch: Arch, tmp_path: Path) -> None:
    path = whole(replace(arch, layers=3), tmp_path)
    message = "holds 7 tensors that the model with its 2 layers does not have, the first is blk.2"
    with pytest.raises(EdgequantError, match=message):
        for_model(path, arch)
