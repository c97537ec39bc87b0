"""Text after images, as a report has it."""

import json
from pathlib import Path

import numpy as np
import pytest

import edgequant
from calib_data.drawings import SIZES, drawings
from quantize.checkpoint import bundled, open_checkpoint
from quantize.mmproj import make
from quantize.report.examine import open_subject
from quantize.report.images import DRAWINGS, LENGTH, after_images, image_rows
from quantize.report.metrics import Metrics
from runtime.engine import OpsEngine, open_engine
from runtime.errors import CorruptFileError
from tests.one_file_models import edit, weights
from tests.quantize.report.schemas import errors, schema
from tests.vision_models import IMAGE, QWEN2, QWEN25, vision_model


def test_drawings_are_the_same_each_time_and_differ() -> None:
    found, again = drawings(9), drawings(9)
    for one, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        assert one.caption == other.caption
    assert len({drawing.caption for drawing in found}) == 9
    assert {drawing.pixels.shape[:2] for drawing in found} == set(SIZES)
    for drawing in found:
        shown = len(np.unique(drawing.pixels.reshape(-1, 3), axis=0))
        told = drawing.caption.count(" there is ")
        assert 2 <= shown <= told + 1  # a shape may hide another one


def test_a_row_is_an_image_and_its_caption(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(vision_model(tmp_path / "x", QWEN25))
    rows = image_rows(checkpoint, 3)
    assert [(row.ids == IMAGE).sum() for row in rows] == [16, 30, 40]
    for row, drawing in zip(rows, drawings(3), strict=True):
        assert (row.ids[0], row.ids[row.judged][0]) == (4096, 4097)
        assert len(row.ids[row.judged]) == LENGTH
        text = checkpoint.tokenizer.decode(row.ids[row.judged][1:].tolist())
        assert drawing.caption.startswith(text)


def test_a_model_without_images_or_room_has_no_rows(tmp_path: Path) -> None:
    assert image_rows(open_checkpoint(bundled())) == []
    folder = vision_model(tmp_path / "x", QWEN25 | {"max_position_embeddings": 70})
    assert len(image_rows(open_checkpoint(folder), 3)) == 2
    edit(folder, "config.json", image_token_id=...)
    assert image_rows(open_checkpoint(folder)) == []


def measured(folder: Path, path: Path) -> Metrics:
    checkpoint, subject = open_checkpoint(folder), open_subject("x", path)
    original = open_engine(checkpoint.model(), "torch")
    assert isinstance(original, OpsEngine)
    rows = image_rows(checkpoint, 3)
    found = after_images(original, [subject], rows, lambda stage, done, total, note: None)
    return found["x"]


@pytest.mark.parametrize("target", ["gguf:F32", "onnx:fp32"])
def test_the_original_itself_strays_nowhere(target: str, tmp_path: Path) -> None:
    folder = vision_model(tmp_path / "x", QWEN2)
    done = edgequant.quantize(folder, target, tmp_path / "out", method="rtn", check=False)
    found = measured(folder, done.artifacts[0].path)
    assert (found.windows, found.tokens) == (3, 3 * LENGTH)
    assert found.kl < 1e-6 and found.top1 == 1


def test_a_folder_is_judged_with_its_own_tower(tmp_path: Path) -> None:
    folder, flags = vision_model(tmp_path / "x", QWEN25), {"method": "rtn", "check": False}
    rules = ["visual=INT4_32"]
    done = edgequant.quantize(folder, "onnx:fp32", tmp_path / "out", rules=rules, **flags)  # type: ignore[arg-type]
    found = measured(folder, done.artifacts[0].path)
    assert found.kl > 1e-4  # the language model is exact


@pytest.mark.slow
def test_a_run_reports_text_after_images(tmp_path: Path) -> None:
    folder, out = vision_model(tmp_path / "x", QWEN25), tmp_path / "out"
    flags = {"rows": 4, "length": 32, "eval_rows": 2, "eval_length": 32, "method": "rtn"}
    edgequant.quantize(folder, ["gguf:Q4_0", "onnx:int8"], out, **flags)  # type: ignore[arg-type]
    report = json.loads((out / "report.json").read_text())
    assert not errors(report, schema(), schema())
    low, high = (result["images"] for result in report["results"])
    assert low["windows"] == high["windows"] == DRAWINGS
    assert 0 < high["kl"] < low["kl"]
    assert "after images" in (out / "report.html").read_text()
    card = (out / "README.md").read_text()
    assert "create_multimodal_processor()" in card and "llama-cli -m" in card
    told = [note for result in report["results"] for note in result["notes"] if "tower" in note]
    path = next(out.glob("*-onnx"))
    size = sum((path / name).stat().st_size for name in ("vision.onnx", "vision.onnx.data"))
    assert told == [f"{size:,} of its bytes are the vision tower, which other files are without"]


def test_a_tower_that_is_not_whole_is_refused_before_work(tmp_path: Path) -> None:
    folder, name = vision_model(tmp_path / "x", QWEN25), "blocks.0.norm1.weight"
    weights(folder, lambda v: {n: value for n, value in v.items() if n != f"visual.{name}"})
    with pytest.raises(CorruptFileError, match=f"{name} of the vision tower is not there"):
        edgequant.quantize(folder, "gguf:Q4_0", tmp_path / "out")
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_tower_that_holds_no_number_is_refused_before_work(value: float, tmp_path: Path) -> None:
    folder, name = vision_model(tmp_path / "x", QWEN25), "blocks.1.attn.qkv.bias"
    weights(folder, lambda v: v[f"visual.{name}"].__setitem__(3, value))
    sentence = f"{name} of the vision tower holds 1 NaN or infinite values of 96"
    with pytest.raises(CorruptFileError, match=sentence):
        edgequant.quantize(folder, "gguf:Q4_0", tmp_path / "out")
    assert not list(tmp_path.glob("out/*"))
    with pytest.raises(CorruptFileError, match=sentence):
        make(tmp_path / "x.gguf", str(folder))
    assert not list(tmp_path.glob("*.gguf"))
