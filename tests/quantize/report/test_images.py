"""Text after images, as a report has it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgequant
from calib_data.drawings import HELD_OUT, SIZES, drawings
from quantize.checkpoint import bundled, open_checkpoint
from quantize.mmproj import make
from quantize.report.checks import failures, open_questions
from quantize.report.gate import Gates
from quantize.report.images import LENGTH, after_images, image_rows, summary
from quantize.report.metrics import Metrics, score, stack
from quantize.report.report import ArtifactResult, Report
from quantize.report.subject import open_subject
from runtime.engine import OpsEngine, open_engine
from runtime.errors import CorruptFileError, GateError, InputError
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
    return found["x"].metrics


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
    assert low["windows"] == high["windows"] == HELD_OUT
    assert 0 < high["kl"] < low["kl"]
    assert all(len(result["image_windows"]) == HELD_OUT for result in report["results"])
    assert "after images" in (out / "report.html").read_text()
    card = (out / "README.md").read_text()
    assert "create_multimodal_processor()" in card and "llama-cli -m" in card
    told = [note for result in report["results"] for note in result["notes"] if "tower" in note]
    path = next(out.glob("*-onnx"))
    size = sum((path / name).stat().st_size for name in ("vision.onnx", "vision.onnx.data"))
    assert told == [f"{size:,} of its bytes are the vision tower, which other files are without"]


BRIEF: Any = {"eval_rows": 3, "eval_length": 32}


def blinded(path: Path) -> None:
    """Axes of rope in another order: text stands at the same place on all of them."""
    key = b"qwen2vl.rope.dimension_sections"
    whole = bytearray(path.read_bytes())
    at = whole.index(key) + len(key) + 4 + 4 + 8  # the kinds of the value and of its items, count
    assert np.frombuffer(whole[at : at + 16], "<i4").tolist() == [2, 3, 3, 0]
    whole[at : at + 16] = np.array([6, 1, 1, 0], "<i4").tobytes()
    path.write_bytes(whole)


@pytest.mark.slow
def test_an_artifact_whose_text_is_fine_is_refused_for_its_images(tmp_path: Path) -> None:
    folder, out = vision_model(tmp_path / "x", QWEN25), tmp_path / "out"
    done = edgequant.quantize(folder, "gguf:F16", out, method="rtn", **BRIEF)
    path, baseline = done.artifacts[0].path, out / "report.json"
    again = edgequant.check(path, against=folder, max_image_kl=1e-3, baseline=baseline, **BRIEF)
    assert not again.failures and "images" not in "".join(again.results[0].notes)
    blinded(path)
    limits: dict[str, Any]
    for limits in ({"max_kl": 5e-4}, {"baseline": baseline}):
        with pytest.raises(GateError) as caught:
            edgequant.check(path, against=folder, **limits, **BRIEF)
        (result,) = caught.value.result.results
        assert result.metrics.kl < 5e-4 < result.images.kl
        said = "worse than the baseline's" if "baseline" in limits else "above the limit of 0.0005"
        measured = [line for line in result.failures if line.startswith("after images")]
        assert said in measured[0]
        assert not [line for line in result.failures if "worse" in line and line not in measured]


def result_of(path: Path, changes: dict[str, Any]) -> Path:
    """The report with other values in its evaluation or its only result."""
    values = json.loads(path.read_text())
    for name, value in changes.items():
        place = values["evaluation"] if name == "images" else values["results"][0]
        place[name] = value
    changed = path.with_name("changed.json")
    changed.write_text(json.dumps(values))
    return changed


@pytest.mark.slow
def test_what_a_baseline_has_of_images_is_told(tmp_path: Path) -> None:
    folder, out = vision_model(tmp_path / "x", QWEN25), tmp_path / "out"
    done = edgequant.quantize(folder, "gguf:F16", out, method="rtn", **BRIEF)
    path, baseline = done.artifacts[0].path, out / "report.json"
    older = result_of(baseline, {"images": "", "image_windows": []})
    found = edgequant.check(path, against=folder, baseline=older, **BRIEF)
    assert not found.failures
    assert "text after images is not in the baseline" in found.results[0].notes
    other = result_of(baseline, {"images": "0" * 64})
    with pytest.raises(InputError, match="was measured on other images than this version has"):
        edgequant.check(path, against=folder, baseline=other, **BRIEF)


def test_logits_that_are_no_numbers_make_it_unfit(tmp_path: Path) -> None:
    logits = np.random.default_rng(0).normal(size=(LENGTH, 8)).astype(np.float32)
    broken = np.where(np.arange(LENGTH)[:, None] < 3, np.nan, logits)
    following = np.zeros(LENGTH, int)
    good, bad = (score(logits, other, following) for other in (logits, broken))
    assert summary(stack([good, good])).problems == ()
    (line,) = summary(stack([good, bad])).problems
    assert line == f"it computes NaN or infinite logits for 3 of {2 * LENGTH} tokens after images"


def told(gates: Gates, result: ArtifactResult) -> list[str]:
    return list(failures(gates.checks(result)))


def test_a_gate_on_images_needs_a_measurement(report: Report) -> None:
    (text,) = report.results
    (line,) = open_questions(Gates(max_image_kl=9.0).checks(text))
    assert line.startswith("--max-image-kl was not measured: text after images was not measured")
    seen = replace(text, images=replace(text.metrics, kl=0.02))
    assert told(Gates(max_image_kl=0.02), seen) == told(Gates(), seen) == []
    (line,) = told(Gates(max_image_kl=0.019), seen)
    assert line == "after images mean KL 0.02000 is above the limit of 0.019"
    fine = replace(seen, metrics=replace(text.metrics, kl=0.001))
    assert told(Gates(max_kl=0.019), fine) == [line]  # unless they have a limit of their own
    assert told(Gates(max_kl=0.019, max_image_kl=0.02), fine) == []
    assert told(Gates(max_kl=0.019), replace(fine, images=None)) == []
    with pytest.raises(InputError, match="max_image_kl measures text after images, and tiny-qwen"):
        edgequant.quantize(to="gguf:Q4_0", max_image_kl=0.1)


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
