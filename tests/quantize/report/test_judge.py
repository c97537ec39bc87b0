"""Judging written files end to end: figures, files on disk, refusals."""

import json
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import calib_data
from calib_data import CalibrationError
from export import CONTAINERS
from quantize.checkpoint import Checkpoint
from quantize.plan import Plan, Target, assign
from quantize.report import examine, judge
from quantize.report import settings as report_settings
from quantize.report.metrics import EDGES
from quantize.report.original import original_backend
from quantize.report.report import Report, read_report
from quantize.report.subject import open_subject
from quantize.run import pipeline
from quantize.run.job import Job
from runtime.engine import open_engine
from runtime.errors import EdgequantError
from runtime.model import Model
from runtime.tensor import Tensor
from tests.quantize.report.conftest import FLAGS, Steps, rounded, write_onnx

pytestmark = pytest.mark.slow


@pytest.fixture
def copy(int4: Path, tmp_path: Path) -> Path:
    """A written artifact that a test may lose."""
    return Path(shutil.copytree(int4, tmp_path / "x-int4"))


def check(files: list[Path], small: Checkpoint, folder: Path | None = None, **flags) -> Report:
    return judge.check_files(
        files, str(small.folder), folder, "native", FLAGS | flags, Steps(), reject=True
    )


def test_the_figures_are_those_of_the_written_file(report: Report, small, int4) -> None:
    (result,) = report.results
    assert result.bytes == sum(f.stat().st_size for f in int4.rglob("*") if f.is_file())
    stored = sum(t.nbytes for t in rounded(small, "INT4_32"))
    cells = sum(int(np.prod(shape)) for shape in small.tensors.shapes.values())
    assert result.bits_per_weight == pytest.approx(8 * stored / cells)
    assert result.metrics.windows == 6
    assert result.metrics.tokens == 6 * 64
    assert 0 < result.metrics.kl < 1
    assert result.speed.tokens_per_second > 0
    assert report.failures == []


def test_domains_and_windows_add_up_to_the_whole(report: Report) -> None:
    (result,) = report.results
    assert set(result.domains) == {window.domain for window in result.windows}
    total = sum(m.kl * m.tokens for m in result.domains.values())
    assert total / result.metrics.tokens == pytest.approx(result.metrics.kl)
    assert np.mean([w.kl for w in result.windows]) == pytest.approx(result.metrics.kl)
    assert np.mean([w.top1 for w in result.windows]) == pytest.approx(result.metrics.top1)
    assert sum(result.histogram.counts) == result.metrics.tokens
    assert len(result.histogram.counts) == len(EDGES) - 1


def test_the_worst_tokens_come_with_their_text(report: Report, small: Checkpoint) -> None:
    (result,) = report.results
    windows = calib_data.load("builtin", small.tokenizer, 6, 64, part="heldout")
    assert result.worst[0].kl == pytest.approx(result.metrics.kl_max)
    assert [w.kl for w in result.worst] == sorted((w.kl for w in result.worst), reverse=True)
    for worst in result.worst:
        ids = [int(x) for x in windows.ids[worst.window]]
        seen = small.tokenizer.decode(ids[max(0, worst.position - 23) : worst.position + 1])
        assert worst.context == seen
        following = ids[worst.position + 1 : worst.position + 2]
        assert worst.following == small.tokenizer.decode(following)
        assert worst.domain == windows.domains[worst.window]
        assert 0 <= worst.artifact_probability <= 1


def test_measuring_twice_gives_the_same_figures(report: Report, int4, small) -> None:
    again = check([int4], small).results[0]
    first = report.results[0]
    assert replace(again, speed=first.speed) == first


def test_a_good_file_stays_and_its_report_is_written(copy, small, tmp_path) -> None:
    folder = tmp_path / "report"
    found = check([copy], small, folder, max_kl=10.0)
    assert copy.exists()
    assert read_report(folder / "report.json") == found
    assert (folder / "report.html").stat().st_size > 1000
    assert not (folder / "README.md").exists()
    assert found.gates.max_kl == 10.0


def test_a_file_that_fails_a_gate_is_renamed_and_the_report_says_so(copy, small, tmp_path) -> None:
    folder = tmp_path / "report"
    found = check([copy], small, folder, max_kl=0.0)
    assert not copy.exists()
    assert (tmp_path / "x-int4.rejected" / "model.onnx").exists()
    assert found.results[0].file == "x-int4.rejected"
    assert "is above the limit of 0" in found.failures[0]
    assert json.loads((folder / "report.json").read_text())["results"][0]["failures"]


def test_an_older_rejected_file_makes_room(copy, small, tmp_path) -> None:
    (tmp_path / "x-int4.rejected").mkdir()
    check([copy], small, max_kl=0.0)
    assert (tmp_path / "x-int4.rejected" / "model.onnx").exists()


def test_a_file_without_reject_stays_where_it_is(copy, small) -> None:
    flags = FLAGS | {"max_kl": 0.0}
    found = judge.check_files([copy], str(small.folder), None, "native", flags, Steps())
    assert found.failures
    assert copy.exists()


def test_a_file_with_broken_weights_is_rejected(small: Checkpoint, tmp_path: Path) -> None:
    def damaged() -> list[Tensor]:
        # float32 throughout: onnxruntime loses a NaN where it rounds activations to int8
        tensors = {n: Tensor.dense(n, t.decode()) for n, t in small.tensors.items()}
        bad = np.ones(small.arch.hidden, np.float32)
        bad[3] = np.nan
        tensors["output_norm.weight"] = Tensor.dense("output_norm.weight", bad)
        return list(tensors.values())

    found = check([write_onnx(tmp_path / "bad", small, damaged())], small)
    assert "output_norm.weight holds 1 NaN or infinite values" in found.failures[0]
    assert "NaN or infinite logits for 384 of 384 tokens" in found.failures[-1]
    assert found.results[0].sensitivity.startswith("not measured")
    assert (tmp_path / "bad.rejected").exists()
    json.loads(found.text())  # no NaN in the JSON


def test_a_folder_without_tokenizer_is_rejected(copy, small, tmp_path) -> None:
    (copy / "tokenizer.json").unlink()
    found = check([copy], small)
    assert found.failures == [
        "x-int4: tokenizer.json is missing, and must be 9 entries",
        "x-int4: file tokenizer.json is missing",
        "x-int4: it has no tokenizer",
    ]
    assert found.results[0].tokenizer is None


def test_several_files_are_measured_side_by_side(copy, int4, small) -> None:
    found = check([copy, int4], small)
    one, other = found.results
    assert (one.label, other.label) == ("x-int4", "small-int4")
    assert one.metrics == other.metrics


def test_files_of_one_name_are_refused(int4: Path, small: Checkpoint) -> None:
    with pytest.raises(EdgequantError, match="two of the files have the same name"):
        check([int4, int4], small)


def test_an_existing_report_is_not_overwritten(int4, small, tmp_path) -> None:
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(EdgequantError, match=r"report.html exists; .* --report"):
        check([int4], small, tmp_path)
    assert (tmp_path / "report.html").read_text() == "mine"


@pytest.mark.parametrize("length", [8, 257])
def test_a_window_length_that_makes_no_sense_is_refused(length, int4, small) -> None:
    with pytest.raises(EdgequantError, match=f"16.*, not {length}"):
        check([int4], small, eval_length=length)


def test_no_evaluation_text_is_said_before_any_measurement(int4, small, tmp_path) -> None:
    with pytest.raises(CalibrationError):
        check([int4], small, eval_data=str(tmp_path / "none.txt"))


def test_a_large_original_runs_packed_and_gives_the_same_figures(int4, small, report) -> None:
    pytest.importorskip("runtime._native")
    assert original_backend(small.arch, "cuda", most=0) == "torch"
    assert original_backend(small.arch, "cpu", most=0) == "native"
    assert report.original.backend == "torch"
    setup = judge.prepare(judge.Settings(**FLAGS), small, small.fingerprint(), [{int4.name}], 256)
    packed = replace(setup, original=replace(setup.original, backend="native"))
    found = judge.measure(packed, small, [open_subject(int4.name, int4)], "cpu", Steps())
    expected = report.results[0].metrics
    assert found.results[0].metrics.kl == pytest.approx(expected.kl, rel=1e-3)
    assert found.results[0].metrics.ppl_original == pytest.approx(expected.ppl_original, rel=1e-5)


def test_a_file_is_judged_on_whole_unless_it_calibrated_too(small, tmp_path) -> None:
    path = tmp_path / "one.txt"
    path.write_text("One document of a user, without any mark between its parts. " * 20)
    settings = judge.Settings(eval_data=str(path), eval_length=32)
    assert judge.held_out(settings, small, 256).documents == 1
    with pytest.raises(CalibrationError, match="The held-out part of .* has no text to use"):
        judge.held_out(replace(settings, calibration=str(path)), small, 256)


def test_a_baseline_that_lacks_one_of_the_files_is_told(
    copy, int4, small, report, tmp_path
) -> None:
    (tmp_path / "r.json").write_text(report.text(), encoding="utf-8")
    found = check([copy, int4], small, baseline=tmp_path / "r.json")
    assert found.failures == []
    (line,) = found.open_questions
    assert line.startswith("x-int4: --baseline was not measured: not in the baseline r.json")
    assert found.results[1].open_questions == ()
    assert found.gates.baseline == "r.json"


def test_at_most_64_windows_are_used_unless_more_are_asked_for(small: Checkpoint) -> None:
    settings = judge.Settings(eval_length=32)
    assert judge.held_out(settings, small, 256).rows == report_settings.MOST_WINDOWS
    assert judge.held_out(replace(settings, eval_rows=70), small, 256).rows == 70


def test_a_foreign_graph_runs_without_a_look_at_its_tensors(copy, small) -> None:
    path, own = copy / "model.onnx", "blk.0.attn_q.weight.scale"
    model = onnx.load(str(path), load_external_data=False)
    for node in model.graph.node:
        node.input[:] = ["scales_17" if name == own else name for name in node.input]
    next(array for array in model.graph.initializer if array.name == own).name = "scales_17"
    path.write_bytes(model.SerializeToString())
    (result,) = check([copy], small).results
    assert result.tensors == ()
    assert "its stored tensors were not looked at" in result.notes[0]
    assert result.bits_per_weight > 0
    assert result.failures == ()


def test_a_run_is_judged_into_report_page_and_card(small: Checkpoint, tmp_path: Path) -> None:
    plan = Plan(
        targets=(Target("onnx", "int4"), Target("onnx", "int8")),
        model=str(small.folder),
        output=tmp_path,
        method="rtn",
        eval_rows=6,
        eval_length=64,
        max_kl=1e-4,
    )
    job = Job.resolve(plan, Steps())
    job = job.assigned([assign(target, small.arch, ()) for target in plan.targets])
    setup = judge.prepare_run(plan, job)
    for target, kind in zip(plan.targets, ("INT4_32", "INT8_32"), strict=True):
        write_onnx(target.path(tmp_path, small.name), small, rounded(small, kind))
    notes = ["onnx:int4 blk.0.attn_q: rounded to nearest", "a note about the run"]
    found = judge.judge(setup, job, notes)
    first, second = found.results
    assert (first.label, first.rejected, second.rejected) == ("onnx:int4", True, False)
    (of_reader, own) = first.notes
    assert own == "blk.0.attn_q: rounded to nearest"
    assert of_reader.startswith("onnxruntime-genai 0.18 reads the normalizer NFC")
    assert found.notes == ("a note about the run",)
    assert (tmp_path / "small-int4-onnx.rejected").exists()
    assert (tmp_path / "small-int8-onnx").exists()
    assert read_report(tmp_path / "report.json") == found
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "Rejected; do not publish" in text
    assert 'quantize generate small-int8-onnx "' in text
    assert f"{second.metrics.kl:.5f}" in text


def test_a_run_refuses_settings_it_cannot_judge_with_before_it_writes(small, tmp_path) -> None:
    plan = Plan(
        (Target("onnx", "int4"),), str(small.folder), tmp_path / "out", eval_length=512, length=64
    )
    with pytest.raises(EdgequantError, match="between 16 and the model's context of 256"):
        pipeline.run(plan)
    assert not (tmp_path / "out").exists()


def test_a_gguf_file_runs_on_numpy_where_the_native_kernels_are_missing(
    small: Checkpoint, tmp_path: Path, monkeypatch
) -> None:
    writer = CONTAINERS.get("gguf")
    if writer is None:
        pytest.skip("this version writes no GGUF")
    path = tmp_path / "small.gguf"
    writer.write(path, small.arch, rounded(small, "Q8_0"), small.folder, {})
    monkeypatch.setitem(sys.modules, "runtime.backends.native", broken_backend())
    (result,) = check([path], small).results
    assert result.backend == "numpy"
    assert result.notes == (
        "run on the numpy backend, because the native one cannot: the kernels are not compiled.",
    )
    assert result.metrics.kl < 1e-3
    assert len(result.tensors) == len(small.tensors)
    with pytest.raises(EdgequantError, match="unknown backend 'abacus'"):
        judge.check_files([path], str(small.folder), None, "abacus", dict(FLAGS), Steps())


def broken_backend() -> types.ModuleType:
    """A native backend as it is on a machine without the compiled kernels."""

    def refuse(model: Model) -> None:
        raise EdgequantError("the kernels are not compiled.")

    module = types.ModuleType("native")
    module.open = refuse  # type: ignore[attr-defined]
    return module


def test_speed_is_that_of_steps_after_the_first(small: Checkpoint) -> None:
    found = examine.speed(open_engine(small.model(), "numpy"), [1, 2, 3])
    assert found.tokens == examine.TIMED
    assert 0 < found.tokens_per_second < 1e6


def test_speed_is_measured_in_a_context_shorter_than_its_steps(small: Checkpoint) -> None:
    engine = open_engine(small.model(), "numpy")
    engine.arch = replace(engine.arch, context=12)
    assert examine.speed(engine, list(range(1, 17))).tokens == 5


def test_without_a_length_windows_are_the_whole_of_a_short_context(
    int4: Path, small: Checkpoint
) -> None:
    found = check([int4], small, eval_length=None, eval_rows=1)
    assert found.evaluation.length == small.arch.context == 256


def test_files_that_are_not_there_are_told_first(
    int4: Path, small: Checkpoint, tmp_path: Path
) -> None:
    with pytest.raises(EdgequantError, match="none.gguf does not exist"):
        check([tmp_path / "none.gguf"], small, eval_length=10**6)
    with pytest.raises(EdgequantError, match="none.json does not exist"):
        check([int4], small, eval_length=10**6, baseline=tmp_path / "none.json")
