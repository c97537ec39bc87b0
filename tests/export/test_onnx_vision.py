"""The vision tower and the embeddings of an ONNX folder, in onnxruntime itself."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import edgequant
from export.onnx_vision import StoredTower, linears, tower_bytes, write_tower
from export.sight import Sight
from quantize.checkpoint import bundled, open_checkpoint
from quantize.vision import open_vision
from runtime.adapter_files import small_files
from runtime.errors import CorruptFileError, InputError
from runtime.onnx_file import open_onnx
from runtime.quant_types import QUANT_TYPES
from runtime.tensor import Tensor
from runtime.vision.encode import encode
from runtime.vision.image import Patches, read_preparation
from runtime.vision.tower import Tower
from runtime.vision.vision import Vision
from tests.one_file_models import edit
from tests.vision_models import IMAGE, MODELS, QWEN2, QWEN25, vision_model

SIZES = [(6, 10), (20, 22), (8, 24)]
"""Patches each way: windows that are full, cut on one side, and cut on both."""
VISION = {"vision.onnx", "vision.onnx.data", "embedding.onnx", "vision_processor.json"}


def patches(tower: Tower, rows: int, cols: int, seed: int = 0) -> Patches:
    shape = (rows * cols, tower.patch_values)
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return Patches(values, rows, cols)


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])


def seen(path: Path, image: Patches) -> np.ndarray:
    """What the graph of a tower makes of an image."""
    feed = {"pixel_values": image.values, "image_grid_thw": [[1, image.rows, image.cols]]}
    return np.asarray(session(path).run(None, feed)[0])


def vision_of(folder: Path, **change: Any) -> Vision:
    vision = open_vision(open_checkpoint(folder))
    assert vision
    return vision._replace(tower=replace(vision.tower, **change))


def decoded(sight: Sight) -> tuple[Tower, dict[str, Tensor]]:
    """A tower as a file holds it, in the shapes of a checkpoint."""
    stored = StoredTower(sight)
    shapes = stored.wide.shapes()
    return stored.wide, {
        tensor.name: Tensor.dense(tensor.name, tensor.decode().reshape(shapes[tensor.name]))
        for tensor in stored.tensors()
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["F32", "INT8_32", "INT4_32_SYM"])
@pytest.mark.parametrize(
    ("name", "window"), [("qwen2.5", 112), ("qwen2.5", 56), ("qwen2", 0)], ids=str
)
def test_the_graph_computes_what_the_tower_does(
    name: str, window: int, kind: str, tmp_path: Path
) -> None:
    vision = vision_of(vision_model(tmp_path / "x", MODELS[name]), window=window)
    sight = Sight(vision, dict.fromkeys(linears(vision.tower), QUANT_TYPES[kind]))
    write_tower(tmp_path, sight)
    size = sum((tmp_path / file).stat().st_size for file in ("vision.onnx", "vision.onnx.data"))
    assert size == tower_bytes(sight)
    tower, tensors = decoded(sight)
    assert tower.ffn == (64 if kind != "F32" or name == "qwen2" else 44)
    for seed, (rows, cols) in enumerate(SIZES):
        image = patches(vision.tower, rows, cols, seed)
        found = seen(tmp_path / "vision.onnx", image)
        # what was rounded is rounded: the graph adds nothing to it
        assert np.abs(found - encode(tower, tensors, [image])).max() < 1e-4
        original = encode(vision.tower, vision.tensors, [image])
        assert (np.abs(found - original).max() < 1e-4) == (kind == "F32")


def test_an_image_that_is_none_is_refused(tmp_path: Path) -> None:
    vision = vision_of(vision_model(tmp_path / "x", QWEN25))
    write_tower(tmp_path, Sight(vision, {}))
    found, image = session(tmp_path / "vision.onnx"), patches(vision.tower, 4, 8)
    for grid in ([[1, 4, 4]], [[2, 4, 8]]):
        feed = {"pixel_values": image.values, "image_grid_thw": grid}
        if grid[0][0] == 2:  # two pictures of a film
            feed["pixel_values"] = np.concatenate([image.values] * 2)
        with pytest.raises(Exception, match="position_ids"):
            found.run(None, feed)


def made(folder: Path, target: str, out: Path, **flags: Any) -> Path:
    done = edgequant.quantize(folder, target, out, method="rtn", check=False, **flags)
    return done.artifacts[0].path


def test_embeddings_of_images_stand_in_place_of_their_tokens(tmp_path: Path) -> None:
    folder = vision_model(tmp_path / "x", QWEN2)
    path = made(folder, "onnx:fp32", tmp_path / "out")
    run = session(path / "embedding.onnx").run
    ids = np.array([[5, IMAGE, IMAGE, 7], [IMAGE, 8, 9, 10]])
    rows = np.arange(3 * 64, dtype=np.float32).reshape(3, 64)
    words = open_checkpoint(folder).tensors["token_embd.weight"].decode()
    (plain,) = run(None, {"input_ids": ids, "image_features": rows[:0]})
    np.testing.assert_array_equal(plain, words[ids])
    (found,) = run(None, {"input_ids": ids, "image_features": rows})
    expected = words[ids]
    expected[0, 1:3], expected[1, 0] = rows[:2], rows[2]
    np.testing.assert_array_equal(found, expected)
    (fewer,) = run(None, {"input_ids": ids, "image_features": rows[:2]})
    np.testing.assert_array_equal(fewer[1], words[ids[1]])
    with pytest.raises(Exception, match="ScatterND"):
        run(None, {"input_ids": ids[:, 2:], "image_features": rows})


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("preset", ["fp32", "int4"])
def test_a_folder_reads_back_as_it_was_written(preset: str, tied: bool, tmp_path: Path) -> None:
    folder = vision_model(tmp_path / "x", QWEN25 | {"tie_word_embeddings": tied})
    seeing = made(folder, f"onnx:{preset}", tmp_path / "out")
    assert {file.name for file in seeing.iterdir()} >= VISION
    edit(folder, "config.json", image_token_id=...)
    blind = made(folder, f"onnx:{preset}", tmp_path / "blind")
    assert not VISION & {file.name for file in blind.iterdir()}
    expected, found = open_onnx(blind), open_onnx(seeing)
    assert list(found.tensors) == list(expected.tensors)
    for name, tensor in expected.tensors.items():
        assert found.tensors[name].qtype == tensor.qtype
        np.testing.assert_array_equal(found.tensors[name].data, tensor.data)
    data = (seeing / "model.onnx.data").stat().st_size
    assert data == (blind / "model.onnx.data").stat().st_size  # no weight is there twice


@pytest.mark.slow
def test_a_plan_knows_the_bytes_to_the_last(tmp_path: Path) -> None:
    folder = vision_model(tmp_path / "x", QWEN25)
    edit(folder, "preprocessor_config.json", min_pixels=784)
    for target in ("onnx:fp32", "onnx:int8"):
        told = edgequant.plan(folder, target, method="rtn").targets[0].bytes
        path = made(folder, target, tmp_path / "out")
        assert sum(file.stat().st_size for file in path.iterdir()) == told
        assert (path / "preprocessor_config.json").exists()


def stored_bits(path: Path) -> dict[str, int]:
    """Bits of every weight of the tower that is multiplied in codes."""
    import onnx

    nodes = onnx.load(str(path / "vision.onnx"), load_external_data=False).graph.node
    return {
        node.input[1].removesuffix(".weight.q"): attribute.i
        for node in nodes
        if node.op_type == "MatMulNBits"
        for attribute in node.attribute
        if attribute.name == "bits"
    }


@pytest.mark.slow
def test_rules_choose_the_types_of_the_tower(tmp_path: Path) -> None:
    folder = vision_model(tmp_path / "x", QWEN25)
    assert not stored_bits(made(folder, "onnx:fp32", tmp_path / "a"))
    usual = stored_bits(made(folder, "onnx:int4", tmp_path / "b"))
    assert set(usual.values()) == {8} and len(usual) == 3 * 5 + 2
    rules = [r"^visual=INT4_32", r"^visual\.merger=F32"]
    found = stored_bits(made(folder, "onnx:int4", tmp_path / "c", rules=rules))
    assert set(found.values()) == {4} and len(found) == 3 * 5
    with pytest.raises(InputError, match="visual=F32.* matches no tensor"):
        made(bundled(), "onnx:int4", tmp_path / "d", rules=["visual=F32"])
    with pytest.raises(InputError, match="visual=F32.* matches no tensor"):
        made(folder, "gguf:Q4_0", tmp_path / "d", rules=["visual=F32"])


@pytest.mark.slow
def test_rows_that_blocks_do_not_divide_are_told(tmp_path: Path) -> None:
    folder, out = vision_model(tmp_path / "x", QWEN25), tmp_path / "out"
    done = edgequant.quantize(
        folder, "onnx:int4", out, method="rtn", check=False, rules=["visual=INT4_64"]
    )
    sentence = (
        "12 linears of the vision tower cannot be INT4_64, whose blocks do not divide their rows, "
        "and became INT4_32; the first is visual.blocks.0.attn.qkv.weight"
    )
    assert any(sentence in note for note in done.notes)
    plan = edgequant.plan(folder, "onnx:int4", method="rtn", rules=["visual=INT4_64"])
    assert sentence in plan.targets[0].fallbacks


def test_what_cannot_be_seen_is_said_before_work(tmp_path: Path) -> None:
    folder = vision_model(tmp_path / "x", QWEN25)
    told = open_checkpoint(folder).notes
    assert any("ONNX, GPTQ and AWQ folders hold it" in note for note in told)
    edit(folder, "config.json", image_token_id=..., vision_end_token_id=...)
    (note,) = [note for note in open_checkpoint(folder).notes if "ONNX" in note]
    assert "without it, as config.json has no image_token_id and no vision_end_token_id" in note


def test_tokens_that_genai_does_not_look_for_are_told(tmp_path: Path) -> None:
    folder = vision_model(tmp_path / "x", QWEN25)
    plan = edgequant.plan(folder, "onnx:fp32", method="rtn")
    assert not any("finds images" in note for note in plan.notes)
    edit(folder, "config.json", image_token_id=4099)
    plan = edgequant.plan(folder, "onnx:fp32", method="rtn")
    (note,) = [note for note in plan.notes if "finds images" in note]
    assert "this model's are <|vision_start|>, <|video_pad|>, <|vision_end|>" in note


def test_an_adapter_changes_nothing_about_images(tmp_path: Path) -> None:
    folder = vision_model(tmp_path / "x", QWEN25)
    edit(folder, "preprocessor_config.json", min_pixels=784)
    merged = small_files(folder, folder, open_checkpoint(folder).config)
    tower = vision_of(folder).tower
    assert read_preparation(merged.path, tower) == read_preparation(folder, tower)
    assert read_preparation(folder, tower).least == 784


@pytest.mark.parametrize("value", [-1, 4160, 1.5, True, "x"])
def test_a_token_of_videos_that_is_none_is_refused(value: Any, tmp_path: Path) -> None:
    folder = vision_model(tmp_path / "x", QWEN25 | {"video_token_id": value})
    with pytest.raises(CorruptFileError, match=f"video_token_id of .* is {json.dumps(value)}, and"):
        made(folder, "onnx:fp32", tmp_path / "out")
    assert not list(tmp_path.glob("out/*"))
