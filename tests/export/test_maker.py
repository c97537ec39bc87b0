"""Who quantized an artifact, as its metadata tells."""

from pathlib import Path
from typing import Any

import gguf
import pytest
from onnx import helper

from export import CONTAINERS
from quantize.checkpoint import open_checkpoint

maker_of_gguf, maker_of_onnx = CONTAINERS["gguf"].maker, CONTAINERS["onnx"].maker

Q4_K_M, F32 = int(gguf.LlamaFileType.MOSTLY_Q4_K_M), int(gguf.LlamaFileType.ALL_F32)

KEYS: dict[str, tuple[dict[str, Any], str | None]] = {
    "ours": ({"edgequant.preset": "F32", "general.file_type": F32}, "edgequant"),
    "ours with types of its own": ({"edgequant.preset": "4.2 bits"}, "edgequant"),
    "ours, quantized again": (
        {
            "edgequant.preset": "F32",
            "general.quantization_version": 2,
            "general.file_type": Q4_K_M,
        },
        "other",
    ),
    "any tool with ggml's blocks": (
        {"general.quantization_version": 2, "general.file_type": Q4_K_M},
        None,
    ),
    "named": ({"general.quantized_by": "Somebody", "general.quantization_version": 2}, "Somebody"),
    "unknown": ({"general.name": "a model"}, None),
}


@pytest.mark.parametrize("what", KEYS)
def test_a_gguf_file_is_of_the_tool_that_chose_its_types(what: str, tmp_path: Path) -> None:
    keys, expected = KEYS[what]
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "qwen2")
    for key, value in keys.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_uint32(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert maker_of_gguf(tmp_path / "x.gguf") == expected


@pytest.mark.parametrize("preset", CONTAINERS["gguf"].presets)
def test_a_file_of_any_preset_of_ours_is_ours(
    preset: str, random_models: dict[str, Path], tmp_path: Path
) -> None:
    write, path = CONTAINERS["gguf"].write, tmp_path / "x.gguf"
    small = open_checkpoint(random_models["qwen2-tied"])
    write(path, small.arch, small.tensors.values(), small.folder, {"preset": preset})
    assert maker_of_gguf(path) == "edgequant"


def graph(folder: Path, producer: str, scales: str) -> Path:
    """A folder with one product by a 4-bit weight."""
    node = helper.make_node("MatMulNBits", ["x", "w", scales], ["y"], domain="com.microsoft")
    model = helper.make_model(helper.make_graph([node], "g", [], []), producer_name=producer)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder


@pytest.mark.parametrize(
    ("producer", "scales", "expected"),
    [
        ("edgequant", "w.scale", "edgequant"),
        ("edgequant", "w_scales", "other"),
        ("onnx.quantize", "w_scales", "onnx.quantize"),
        ("", "w_scales", None),
    ],
)
def test_an_onnx_folder_is_of_the_graph_s_producer_unless_another_quantized_it(
    producer: str, scales: str, expected: str | None, tmp_path: Path
) -> None:
    assert maker_of_onnx(graph(tmp_path, producer, scales)) == expected
