"""The GGUF reader on files made by hand, cut, damaged and absurd."""

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st

from export.gguf import write
from quantize.checkpoint import open_checkpoint
from runtime.errors import EdgequantError
from runtime.gguf_file import GgufFile, arch_and_tokenizer, open_gguf, read
from runtime.gguf_header import TableEntry, read_header
from runtime.gguf_types import NO_WEIGHTS, REMOVED
from runtime.quant_types import QUANT_TYPES
from runtime.quant_types.read_only import READ_ONLY
from tests.conftest import config
from tests.random_checkpoint import random_checkpoint
from tests.tokenizers_made import made

UINT32, FLOAT32, BOOL, STRING, ARRAY, FLOAT64 = 4, 6, 7, 8, 9, 12
F32 = 0


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, kind: int, payload: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + payload


def entry(name: str, sides: tuple[int, ...], kind: int = F32, offset: int = 0) -> bytes:
    head = text(name) + struct.pack(f"<I{len(sides)}Q", len(sides), *sides)
    return head + struct.pack("<IQ", kind, offset)


def header(pairs: list[bytes], entries: list[bytes], version: int = 3) -> bytes:
    counts = struct.pack("<4sIQQ", b"GGUF", version, len(entries), len(pairs))
    return counts + b"".join(pairs) + b"".join(entries)


def padded(head: bytes, alignment: int = 32) -> bytes:
    return head + bytes(-len(head) % alignment)


def words(*values: str) -> bytes:
    return struct.pack("<IQ", STRING, len(values)) + b"".join(map(text, values))


PAIRS = [
    pair("a.number", UINT32, struct.pack("<I", 7)),
    pair("a.float", FLOAT32, struct.pack("<f", 1e-6)),
    pair("a.double", FLOAT64, struct.pack("<d", 0.1)),
    pair("a.flag", BOOL, b"\1"),
    pair("a.text", STRING, text("gr\u00fc\u00df")),
    pair("a.words", ARRAY, words("one", "", "three")),
    pair("a.scores", ARRAY, struct.pack("<IQ2f", FLOAT32, 2, 1.5, -2)),
    pair("a.flags", ARRAY, struct.pack("<IQ", BOOL, 3) + b"\0\1\0"),
]
VALUES = np.arange(12, dtype="<f4")
SMALL = padded(header(PAIRS, [entry("w", (4, 2)), entry("b", (4,), offset=32)])) + VALUES.tobytes()
"""Two tensors: w of 2 rows of 4, b of 4."""


@pytest.fixture
def reading(tmp_path: Path) -> Callable[[bytes], GgufFile]:
    """Write some bytes and read them as a GGUF file."""

    def go(data: bytes) -> GgufFile:
        path = tmp_path / "x.gguf"
        path.write_bytes(data)
        return read(path)

    return go


@pytest.mark.parametrize("version", [2, 3])
def test_metadata_and_tensors_come_back(reading: Any, version: int) -> None:
    file = reading(SMALL[:4] + struct.pack("<I", version) + SMALL[8:])
    assert file.version == version
    found = dict(file.metadata)
    assert found.pop("a.scores").tolist() == [1.5, -2]
    assert found.pop("a.flags").tolist() == [False, True, False]
    assert found == {
        "a.number": 7,
        "a.float": 1e-6,
        "a.double": 0.1,
        "a.flag": True,
        "a.text": "gr\u00fc\u00df",
        "a.words": ["one", "", "three"],
    }
    assert [(t.name, t.shape) for t in file.tensors.values()] == [("w", (2, 4)), ("b", (4,))]
    assert file.packed("w").view("<f4").tolist() == VALUES[:8].reshape(2, 4).tolist()
    assert file.packed("b").view("<f4").tolist() == [VALUES[8:].tolist()]


def test_tensors_are_mapped_and_not_copied(reading: Any) -> None:
    file = reading(SMALL)
    mapped = file.tensors["w"].file
    assert np.shares_memory(file.packed("w"), mapped)
    assert isinstance(mapped, np.memmap)


def test_a_file_cut_anywhere_is_refused_with_its_missing_bytes(reading: Any) -> None:
    for length in range(4, len(SMALL)):
        with pytest.raises(EdgequantError, match=r"cut short or damaged: [\d,]+ bytes are missing"):
            reading(SMALL[:length])
    with pytest.raises(EdgequantError, match="8 bytes are missing after its 48;"):
        reading(padded(header([], [entry("w", (4,))]))[:48])


@pytest.mark.parametrize("data", [b"", b"GG", b"PK\3\4 not a model"])
def test_another_kind_of_file_is_refused(reading: Any, data: bytes) -> None:
    with pytest.raises(EdgequantError, match="is not a GGUF file"):
        reading(data)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgequantError, match="cannot be read: No such file"):
        read(tmp_path / "none.gguf")


@pytest.mark.parametrize(
    ("version", "sentence"),
    [(b"\1\0\0\0", "has GGUF version 1;"), (b"\0\0\0\3", "is big-endian;")],
)
def test_other_versions_and_byte_orders_are_refused(
    reading: Any, version: bytes, sentence: str
) -> None:
    with pytest.raises(EdgequantError, match=f"{sentence} only little-endian files"):
        reading(SMALL[:4] + version + SMALL[8:])


HUGE = 2**60
ABSURD = {
    "tensors": struct.pack("<4sIQQ", b"GGUF", 3, HUGE, 0),
    "pairs": struct.pack("<4sIQQ", b"GGUF", 3, 0, HUGE),
    "key length": struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, HUGE) + bytes(32),
    "string length": header([pair("k", STRING, struct.pack("<Q", HUGE))], []),
    "array of numbers": header([pair("k", ARRAY, struct.pack("<IQ", UINT32, HUGE))], []),
    "array of strings": header([pair("k", ARRAY, struct.pack("<IQ", STRING, HUGE))], []),
    "one side": padded(header([], [entry("w", (HUGE,))])),
    "all sides": padded(header([], [entry("w", (2**40, 2**40, 2**40, 2**40))])),
    "sides that wrap round to 0 in 64 bits": padded(header([], [entry("w", (2**32, 2**32))])),
    "offset": padded(header([], [entry("w", (4,), offset=HUGE)])) + bytes(16),
    "alignment": header(
        [pair("general.alignment", UINT32, struct.pack("<I", 2**31))], [entry("w", (4,))]
    ),
}


@pytest.mark.parametrize("case", ABSURD)
def test_absurd_sizes_are_refused_before_any_memory_is_taken(reading: Any, case: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(EdgequantError, match="cut short or damaged: [0-9,]+ bytes are missing"):
            reading(ABSURD[case])
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def _alignment(kind: int, payload: bytes) -> bytes:
    return (
        padded(header([pair("general.alignment", kind, payload)], [entry("w", (4,))]))
        + VALUES[:4].tobytes()
    )


DAMAGED = {
    "it has the key 'k' twice": header([pair("k", BOOL, b"\0")] * 2, []),
    "it has the tensor 'w' twice": padded(header([], [entry("w", (4,))] * 2)) + bytes(16),
    "'k' has the unknown value type 99": header([pair("k", 99, bytes(8))], []),
    "'k' holds the unknown value type 99": header(
        [pair("k", ARRAY, struct.pack("<IQ", 99, 0))], []
    ),
    "'k' holds arrays inside an array": header(
        [pair("k", ARRAY, struct.pack("<IQ", ARRAY, 1) + bytes(12))], []
    ),
    "the text before byte 33 is not UTF-8": header([struct.pack("<Q", 1) + b"\xff" + bytes(9)], []),
    "'w' has 0 dimensions": header([], [entry("w", ()) + bytes(8)]),
    "'w' has 5 dimensions": header([], [entry("w", (1, 1, 1, 1, 1))]),
    r"'w' has shape \(0,\)": header([], [entry("w", (0,))]),
    "'w' starts at 8, not at 32s": padded(header([], [entry("w", (4,), offset=8)])) + bytes(24),
    "general.alignment is 24, not a power of two": _alignment(UINT32, struct.pack("<I", 24)),
    "general.alignment is 0, not a power of two": _alignment(UINT32, struct.pack("<I", 0)),
    "general.alignment is 'x', not a power of two": _alignment(STRING, text("x")),
}


@pytest.mark.parametrize("sentence", DAMAGED)
def test_content_that_cannot_be_right_is_refused(reading: Any, sentence: str) -> None:
    with pytest.raises(EdgequantError, match=f"is damaged: {sentence}.*; copy or download"):
        reading(DAMAGED[sentence])


UNREAD = {
    99: "GGUF type 99, which llama.cpp does not know; run it with the program that made it",
    4: "Q4_2, which llama.cpp no longer reads; get the model in a current type",
    31: "Q4_0_4_4, which llama.cpp no longer reads; get the model in a current type",
    26: "I32, in which llama.cpp has no weights; convert the model again",
}


@pytest.mark.parametrize("kind", UNREAD)
def test_a_type_that_no_block_reads_is_refused_with_the_way_out(reading: Any, kind: int) -> None:
    with pytest.raises(EdgequantError, match=f"x.gguf stores 'w' as {UNREAD[kind]}"):
        reading(padded(header([], [entry("w", (4,), kind=kind)])) + bytes(16))


def test_every_type_of_the_gguf_package_is_read_or_refused_by_its_name() -> None:
    read_here = {q.ggml_type: q.name for q in (*QUANT_TYPES.values(), *READ_ONLY.values())}
    assert not read_here.keys() & (NO_WEIGHTS | REMOVED).keys()
    for kind in GGMLQuantizationType:
        assert (read_here | NO_WEIGHTS)[kind.value] == kind.name


def test_a_tensor_that_is_not_right_behind_the_one_before_is_refused(reading: Any) -> None:
    for offset in (0, 64):  # over it, and after a gap
        entries = [entry("a", (8,)), entry("b", (4,), offset=offset)]
        sentence = rf"'b' starts at {offset}, not behind 'a' \(F32\) at 32; copy or download"
        with pytest.raises(EdgequantError, match=sentence):
            reading(padded(header([], entries)) + bytes(96))


def test_a_fork_s_layout_under_a_number_of_llama_cpp_is_refused(reading: Any) -> None:
    """Q2_0 in blocks of 128, 34 bytes, where llama.cpp has blocks of 64, 18 bytes."""
    entries = [entry("a", (256, 8), kind=42), entry("b", (4,), offset=8 * 2 * 34)]
    with pytest.raises(EdgequantError, match=r"'b' starts at 544, not behind 'a' \(Q2_0\) at 576"):
        reading(padded(header([], entries)) + bytes(600))


def test_the_header_of_a_file_with_any_type_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(padded(header(PAIRS, [entry("w", (4, 2), kind=99, offset=64)])))
    found = read_header(path)
    assert found.metadata["a.text"] == "gr\u00fc\u00df"
    assert found.table == [TableEntry("w", (2, 4), 99, 64)]
    assert found.start == path.stat().st_size


def test_a_larger_alignment_moves_the_data(reading: Any) -> None:
    pairs = [pair("general.alignment", UINT32, struct.pack("<I", 256))]
    file = reading(padded(header(pairs, [entry("w", (4,))]), 256) + VALUES[:4].tobytes())
    assert file.tensors["w"].offset == 256
    assert file.packed("w").view("<f4").tolist() == [[0, 1, 2, 3]]


def model_bytes(folder: Path, name: str) -> bytes:
    """A whole model of a few kilobytes, of one of CONFIGS, written by our writer."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    words = {"vocab_size": 604, "eos_token_id": 5}
    random_checkpoint(
        folder / "model", config(name, **sizes, **heads, **words), made("llama-bpe", folder / "t")
    )
    checkpoint = open_checkpoint(folder / "model")
    tensors = (checkpoint.tensors[name] for name in checkpoint.tensors)
    write(folder / "x.gguf", checkpoint.arch, tensors, checkpoint.folder, {"preset": "BF16"})
    assert open_gguf(folder / "x.gguf").tokenizer
    return (folder / "x.gguf").read_bytes()


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return model_bytes(tmp_path_factory.mktemp("fuzz"), "llama-tied")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "x.gguf"


def survives(path: Path, data: bytes) -> None:
    """Opening some bytes and reading every tensor ends well, or with our own error."""
    path.write_bytes(data)
    try:
        model = open_gguf(path)
        for name in model.tensors:
            model.tensors[name].decode()
        model.arch.rope.tables(0, 4, model.arch.head_dim)
    except EdgequantError as error:
        assert "\n" not in str(error)


def test_an_opened_model_does_not_keep_the_strings_of_its_vocabulary(
    tiny_file: bytes, scratch: Path
) -> None:
    scratch.write_bytes(tiny_file)
    tracemalloc.start()
    try:
        metadata = read(scratch).metadata
        strings = tracemalloc.get_traced_memory()[0]
        del metadata
        before = tracemalloc.get_traced_memory()[0]
        model = open_gguf(scratch)
        kept = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert model.tokenizer
    assert kept < strings / 2
    assert strings > 50_000


def test_sizes_and_tokenizer_are_known_whatever_the_types(tiny_file: bytes, scratch: Path) -> None:
    scratch.write_bytes(tiny_file)
    expected = open_gguf(scratch)
    line = entry("blk.0.ffn_up.weight", (16, 16), kind=30)[:-8]  # without its offset
    assert line in tiny_file
    scratch.write_bytes(tiny_file.replace(line, line[:-4] + struct.pack("<I", 99)))
    with pytest.raises(EdgequantError, match=r"'blk.0.ffn_up.weight' as GGUF type 99"):
        open_gguf(scratch)
    arch, tokenizer = arch_and_tokenizer(scratch)
    assert arch == expected.arch
    assert tokenizer is not None
    assert expected.tokenizer is not None
    assert tokenizer.encode("a b") == expected.tokenizer.encode("a b")


@settings(max_examples=40)
@given(data=st.data())
def test_a_model_cut_anywhere_opens_or_is_refused(
    tiny_file: bytes, scratch: Path, data: st.DataObject
) -> None:
    survives(scratch, tiny_file[: data.draw(st.integers(0, len(tiny_file) - 1))])


@settings(max_examples=150)
@given(data=st.data())
def test_a_model_with_changed_bytes_opens_or_is_refused(
    tiny_file: bytes, scratch: Path, data: st.DataObject
) -> None:
    """Half of the changes hit the first kilobyte, where sizes and types are."""
    damaged = bytearray(tiny_file)
    at = st.one_of(st.integers(0, 1500), st.integers(0, len(tiny_file) - 1))
    for place in data.draw(st.lists(at, min_size=1, max_size=4)):
        damaged[place] = data.draw(st.integers(0, 255))
    survives(scratch, bytes(damaged))


MISFITS = {
    "has the architecture 'phony'; supported: .*llama": (b"llama", b"phony"),
    "has no tensor blk.0.ffn_up.weight": (b"blk.0.ffn_up.weight", b"blk.0.ffn_xp.weight"),
    r"blk.0.attn_k.weight in .* has shape \(8, 16\), but its metadata implies \(16, 16\)": (
        b"llama.attention.head_count_kv",
        b"llama.attention.head_count_xx",
    ),
}


def test_files_that_are_no_model_of_ours_are_refused(tiny_file: bytes, scratch: Path) -> None:
    for sentence, (old, new) in MISFITS.items():
        assert old in tiny_file
        scratch.write_bytes(tiny_file.replace(old, new))
        with pytest.raises(EdgequantError, match=sentence):
            open_gguf(scratch)


def test_a_tensor_that_the_family_does_not_know_is_refused(tmp_path: Path) -> None:
    raw = model_bytes(tmp_path, "llama-untied")
    (tmp_path / "y.gguf").write_bytes(raw.replace(text("output.weight"), text("outpux.weight")))
    with pytest.raises(EdgequantError, match="that llama does not know .*outpux.weight"):
        open_gguf(tmp_path / "y.gguf")
