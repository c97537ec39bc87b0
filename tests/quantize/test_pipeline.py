"""The main job from end to end, judged: what it leaves, what it says, and how it ends."""

import json
from pathlib import Path
from typing import Any

import pytest

from quantize.plan import Plan
from quantize.run import pipeline
from runtime.errors import EdgequantError
from runtime.tensor import is_matrix
from tests.quantize.runs import small_plan

pytestmark = pytest.mark.slow

JUDGED: dict[str, Any] = {"eval_rows": 2, "eval_length": 64}


class Stop(Exception):
    """Stands for a crash inside the process."""


def judged_plan(model: Path, output: Path, *to: str, **changes: Any) -> Plan:
    return small_plan(model, *to, output=str(output), **JUDGED | changes)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_judged_run_leaves_artifacts_reports_and_nothing_else(
    random_models: dict[str, Path], tmp_path: Path
) -> None:
    plan = judged_plan(random_models["qwen2-tied"], tmp_path, "gguf:Q4_K_M", "onnx:int4")
    report = pipeline.run(plan)
    assert report is not None
    assert not report.failures
    artifacts = {"qwen2-tied-Q4_K_M.gguf", "qwen2-tied-int4-onnx"}
    beside = {"report.json", "report.html", "README.md", "qwen2-tied-Q4_K_M.Modelfile"}
    assert names(tmp_path) == artifacts | beside
    assert [result.label for result in report.results] == ["gguf:Q4_K_M", "onnx:int4"]
    assert all(result.metrics.kl < 0.1 for result in report.results)


def test_fallbacks_are_said_and_stand_in_the_file_and_in_the_report(
    random_models: dict[str, Path], tmp_path: Path
) -> None:
    said: list[str] = []
    plan = judged_plan(random_models["qwen2-tied"], tmp_path, "onnx:int4-128")
    report = pipeline.run(plan, say=said.append)
    assert any("rows of 96 cannot be INT4_128" in line for line in said)
    assert report is not None
    assert "rows of 96 cannot be INT4_128" in json.dumps(report.to_json())
    facts = report.results[0].tensors
    linears = (f for f in facts if f.name.startswith("blk.") and is_matrix(f.shape))
    narrowed = dict.fromkeys((f.name for f in linears if f.shape[-1] % 128), "INT4_128")
    assert {fact.name: fact.asked for fact in facts if fact.asked} == narrowed != {}
    assert "instead of INT4_128" in (tmp_path / "report.html").read_text(encoding="utf-8")
    graph = (tmp_path / "qwen2-tied-int4-128-onnx" / "model.onnx").read_bytes()
    assert b"rows of 96 cannot be INT4_128" in graph


def test_a_run_stopped_while_judging_only_judges_again(
    random_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(stage: str, done: int, total: int, note: str) -> None:
        if stage == "judging":
            raise Stop

    plan = judged_plan(random_models["qwen2-tied"], tmp_path, "onnx:int4")
    with pytest.raises(Stop):
        pipeline.run(plan, stop)
    (tmp_path / "report.json").write_text("half")  # a crash between the reports
    monkeypatch.setattr(pipeline, "quantize_model", None)  # nobody may call it
    report = pipeline.run(plan)
    assert report is not None
    expected = json.loads(json.dumps(report.to_json()))
    assert json.loads((tmp_path / "report.json").read_text()) == expected


def test_text_too_short_to_judge_with_is_refused_before_the_work(
    random_models: dict[str, Path], tmp_path: Path
) -> None:
    plan = judged_plan(random_models["qwen2-tied"], tmp_path / "out", "onnx:int4", eval_length=2048)
    with pytest.raises(EdgequantError, match="--eval-length must be between 16 and"):
        pipeline.run(plan)
    assert not (tmp_path / "out").exists()


def arguments(model: Path, output: Path, *more: str) -> list[str]:
    small = ["--calib-rows", "2", "--calib-length", "64", "--eval-rows", "2"]
    return ["run", str(model), *small, "--eval-length", "64", "-o", str(output), *more]


def test_a_failed_gate_exits_with_1_and_leaves_the_file_as_rejected(
    run: Any,
    random_models: dict[str, Path],
    tmp_path: Path,
) -> None:
    model = random_models["qwen2-tied"]
    gate = ("--to", "gguf:Q8_0", "--max-kl", "1e-12", "--json")
    code, out, err = run(*arguments(model, tmp_path, *gate))
    assert code == 1
    assert "gate failed" in err
    assert json.loads(out)["results"][0]["label"] == "gguf:Q8_0"
    rejected = {"qwen2-tied-Q8_0.gguf.rejected", "qwen2-tied-Q8_0.Modelfile.rejected"}
    reports = {"report.json", "report.html", "README.md"}
    assert names(tmp_path) == rejected | reports


def test_a_passed_gate_exits_with_0_and_the_file_can_be_checked_again(
    run: Any,
    random_models: dict[str, Path],
    tmp_path: Path,
) -> None:
    model = random_models["qwen2-tied"]
    code, out, _ = run(*arguments(model, tmp_path, "--to", "gguf:Q8_0", "--max-kl", "1"))
    assert code == 0
    assert "gguf:Q8_0" in out
    again = ("--against", model, "--eval-rows", "2", "--eval-length", "64")
    made = tmp_path / "qwen2-tied-Q8_0.gguf"
    assert run("check", made, *again, "--max-kl", "1")[0] == 0
    code, out, err = run("check", made, *again, "--max-kl", "1e-12", "--json")
    assert code == 1
    assert "gate failed" in err
    assert json.loads(out)["results"][0]["file"] == f"{made.name}.rejected"
    assert not made.exists()
    assert made.with_name(f"{made.name}.rejected").exists()


def test_several_files_are_compared_on_the_same_text(
    run: Any,
    random_models: dict[str, Path],
    tmp_path: Path,
) -> None:
    model = random_models["qwen2-tied"]
    to = ("--to", "gguf:Q8_0", "--to", "gguf:Q4_0", "--no-check", "--method", "rtn")
    assert run(*arguments(model, tmp_path, *to))[0] == 0
    files = sorted(tmp_path.glob("*.gguf"))
    code, out, _ = run(
        "compare", *files, "--against", model, "--eval-rows", "2", "--eval-length", "64", "--json"
    )
    assert code == 0
    found = {item["label"]: item["metrics"]["kl"] for item in json.loads(out)["results"]}
    assert found["qwen2-tied-Q8_0.gguf"] < found["qwen2-tied-Q4_0.gguf"]


def test_a_gguf_file_shows_its_provenance_and_generates(
    run: Any,
    random_models: dict[str, Path],
    tmp_path: Path,
) -> None:
    model = random_models["llama-tied"]
    assert run(*arguments(model, tmp_path, "--to", "gguf:Q8_0", "--no-check"))[0] == 0
    made = tmp_path / "llama-tied-Q8_0.gguf"
    found = json.loads(run("show", made, "--json")[1])
    assert found["container"] == "gguf"
    assert any("gptq" in str(value) for value in found["provenance"].values())
    numpy = run("generate", made, "Hi", "-n", "4", "--backend", "numpy", "--json")
    torch = run("generate", made, "Hi", "-n", "4", "--backend", "torch", "--json")
    assert numpy[0] == 0
    assert numpy[1] == torch[1]
