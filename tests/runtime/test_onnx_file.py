"""Reading ONNX folders: the tensors that went in come back, and anything else is one sentence."""

import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from export import CONTAINERS
from quantize.checkpoint import open_checkpoint
from runtime.errors import EdgequantError
from runtime.onnx_file import metadata, onnx_tensors, open_onnx
from tests.small_models import rounded

pytestmark = pytest.mark.slow

KINDS = ["F32", "INT2_32", "INT2_32_SYM", "INT4_32", "INT4_32_SYM", "INT8_32", "INT8_32_SYM"]


@pytest.fixture(scope="module")
def written(random_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in INT4_32. Its rows have 3 and 5 blocks, so that zero points are padded."""
    path = tmp_path_factory.mktemp("read") / "x"
    checkpoint = open_checkpoint(random_models["llama-untied"])
    tensors = rounded(checkpoint, "INT4_32")
    CONTAINERS["onnx"].write(path, checkpoint.arch, tensors, checkpoint.folder, {"method": "rtn"})
    return path


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    """A folder to damage."""
    return Path(shutil.copytree(written, tmp_path / "copy"))


def edited(folder: Path, change) -> Path:
    """The folder with `change` applied to its graph."""
    model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    change(model.graph)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder


def initializer(graph: onnx.GraphProto, name: str) -> TensorProto:
    return next(proto for proto in graph.initializer if proto.name == name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["qwen2-tied", "llama-untied"])
def test_the_tensors_that_went_in_come_back(random_models, tmp_path, name, kind) -> None:
    checkpoint = open_checkpoint(random_models[name])
    tensors = list(rounded(checkpoint, kind))
    write = CONTAINERS["onnx"].write
    write(tmp_path / "x", checkpoint.arch, tensors, checkpoint.folder, {})
    model = open_onnx(tmp_path / "x")
    assert model.arch == checkpoint.arch
    assert list(model.tensors) == [tensor.name for tensor in tensors] and len(model.tensors)
    for tensor in tensors:
        found = model.tensors[tensor.name]
        assert (found.shape, found.qtype) == (tensor.shape, tensor.qtype)
        np.testing.assert_array_equal(found.data, tensor.data)


def test_float_weights_are_views_of_the_mapped_file(written: Path) -> None:
    data = open_onnx(written).tensors["output_norm.weight"].data
    assert not data.flags.writeable and not data.flags.owndata


def test_facts_and_tokenizer_are_read(written: Path) -> None:
    told = metadata(written)
    hashes = {"sha256.arrays", "sha256.files", "sha256.graph"}
    assert told.pop("method") == "rtn" and told.keys() == hashes
    assert open_onnx(written).tokenizer.encode("The town") != []


def test_a_folder_without_a_tokenizer_is_a_model_without_one(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    assert open_onnx(copy).tokenizer is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.onnx", "has no model.onnx; give the folder that holds it"),
        ("model.onnx.data", "model.onnx.data is missing; copy it next to model.onnx"),
        ("config.json", "has no config.json; copy the one of the original checkpoint"),
    ],
)
def test_a_missing_file_is_named(copy: Path, name: str, message: str) -> None:
    (copy / name).unlink()
    with pytest.raises(EdgequantError, match=message):
        open_onnx(copy)


@pytest.mark.parametrize("left", [0, 1, 5000, -1])
def test_a_cut_data_file_is_refused_with_its_bytes(copy: Path, left: int) -> None:
    data = (copy / "model.onnx.data").read_bytes()[:left]
    (copy / "model.onnx.data").write_bytes(data)
    with pytest.raises(
        EdgequantError, match=rf"has {len(data):,} bytes, but .* ends at [\d,]+; the"
    ):
        open_onnx(copy)


@pytest.mark.parametrize("content", [b"not protobuf at all", b"\xff" * 64, b"GGUF\x03\0\0\0"])
def test_another_kind_of_file_is_no_onnx_model(copy: Path, content: bytes) -> None:
    (copy / "model.onnx").write_bytes(content)
    with pytest.raises(
        EdgequantError, match="is not an ONNX model, or is cut short; copy it again"
    ):
        open_onnx(copy)


def test_an_empty_graph_file_is_refused(copy: Path) -> None:
    (copy / "model.onnx").write_bytes(b"")
    with pytest.raises(
        EdgequantError, match="has no weight token_embd.weight; only folders written"
    ):
        open_onnx(copy)


@dataclass
class Damaged:
    """A folder whose graph is replaced; `graph` is the sound one."""

    folder: Path
    shapes: dict[str, tuple[int, ...]] = field(repr=False)
    graph: bytes = field(repr=False)

    def readable_or_refused(self, graph: bytes) -> None:
        """Opening another graph ends in an EdgequantError or in tensors that can be read."""
        (self.folder / "model.onnx").write_bytes(graph)
        try:
            tensors = onnx_tensors(self.folder, self.shapes)
        except EdgequantError:
            return
        assert all(tensor.data.size for tensor in tensors.values())


@pytest.fixture(scope="module")
def damaged(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Damaged:
    folder = Path(shutil.copytree(written, tmp_path_factory.mktemp("damaged") / "x"))
    shapes = {name: tensor.shape for name, tensor in open_onnx(folder).tensors.items()}
    return Damaged(folder, shapes, (written / "model.onnx").read_bytes())


def test_a_graph_cut_anywhere_is_refused_or_whole(damaged: Damaged) -> None:
    for length in range(0, len(damaged.graph), 37):
        damaged.readable_or_refused(damaged.graph[:length])


@settings(max_examples=150)
@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_flipped_bits_never_end_in_another_error(damaged: Damaged, place, mask: int) -> None:
    at = int(place * len(damaged.graph))
    flipped = bytes([damaged.graph[at] ^ mask])
    damaged.readable_or_refused(damaged.graph[:at] + flipped + damaged.graph[at + 1 :])


def test_a_model_of_another_writer_is_refused(copy: Path) -> None:
    node = helper.make_node(
        "MatMulNBits",
        ["x", "model.layers.0.weight_Q4", "model.layers.0.weight_scales"],
        ["y"],
        domain="com.microsoft",
        bits=4,
        block_size=32,
    )
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 96])
    (copy / "model.onnx").write_bytes(
        helper.make_model(helper.make_graph([node], "other", [value], [])).SerializeToString()
    )
    with pytest.raises(
        EdgequantError, match="has no weight token_embd.weight; only folders written"
    ):
        open_onnx(copy)


def test_a_block_that_we_do_not_know_is_refused(copy: Path) -> None:
    def change(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.name == "block_size":
                    attribute.i = 48

    message = "token_embd.weight has 4 bits in blocks of 48; only 2, 4 and 8 bits"
    with pytest.raises(EdgequantError, match=message):
        open_onnx(edited(copy, change))


def test_a_config_of_another_size_is_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"vocab_size": 4000}))
    message = r"token_embd.weight.q in .* is U8 \(4096, 48\), but its config.json says"
    with pytest.raises(EdgequantError, match=message):
        open_onnx(copy)


@pytest.mark.parametrize("location", ["../model.onnx.data", "/etc/hostname", ""])
def test_a_weight_outside_the_folder_is_refused(copy: Path, location: str) -> None:
    def change(graph: onnx.GraphProto) -> None:
        initializer(graph, "output_norm.weight").external_data[0].value = location

    with pytest.raises(EdgequantError, match="output_norm.weight at offset .* not inside a file"):
        open_onnx(edited(copy, change))


@pytest.mark.parametrize("offset", ["-4096", "here", "٣", ""])
def test_an_offset_that_is_no_number_is_refused(copy: Path, offset: str) -> None:
    def change(graph: onnx.GraphProto) -> None:
        initializer(graph, "output_norm.weight").external_data[1].value = offset

    with pytest.raises(EdgequantError, match="output_norm.weight at offset .* not inside a file"):
        open_onnx(edited(copy, change))


@pytest.mark.parametrize("dims", [[-96], [1 << 62, 1 << 62]])
def test_absurd_sizes_are_refused_before_memory_is_taken(copy: Path, dims: list[int]) -> None:
    def change(graph: onnx.GraphProto) -> None:
        del initializer(graph, "output_norm.weight").dims[:]
        initializer(graph, "output_norm.weight").dims.extend(dims)

    with pytest.raises(EdgequantError, match="output_norm.weight"):
        open_onnx(edited(copy, change))


def test_a_missing_onnx_package_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(EdgequantError, match="needs the onnx package; pip install onnx"):
        open_onnx(copy)
