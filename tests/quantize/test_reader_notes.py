"""What readers of an artifact make otherwise of its tokenizer is told wherever a user looks."""

import json
from pathlib import Path
from typing import Any

import pytest

import edgequant
from export import CONTAINERS
from export.genai_tokenizer import ENGINE
from tests.traits import LLAMA, Trait, nothing

SETTINGS: dict[str, Any] = {"method": "rtn", "eval_rows": 1, "eval_length": 64}


@pytest.fixture(scope="module")
def lower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokenizer reads capitals as small letters, which onnxruntime-genai does not."""
    folder = tmp_path_factory.mktemp("lower") / "model"
    return Trait("lower", LLAMA, nothing, tokenizer="lower case").make(folder)


def about_genai(notes: Any) -> list[str]:
    return [note for note in notes if ENGINE in note]


@pytest.mark.slow
def test_plan_run_report_and_artifact_say_it(lower: Path, tmp_path: Path) -> None:
    planned = edgequant.plan(lower, ["onnx:fp32", "onnx:int8"], tmp_path / "out", **SETTINGS)
    (told,) = about_genai(planned.notes)
    assert told.startswith(f"onnx: {ENGINE} reads the normalizer Lowercase of this tokenizer")
    made = edgequant.quantize(lower, ["onnx:fp32", "onnx:int8"], tmp_path / "out", **SETTINGS)
    assert about_genai(made.notes) == [told]
    assert made.report
    for result, artifact, target in zip(
        made.report.results, made.artifacts, planned.targets, strict=True
    ):
        (note,) = about_genai(result.notes)
        assert f"onnx: {note}" == told
        kept = CONTAINERS["onnx"].provenance(artifact.path)["reader_notes"]
        assert json.loads(kept) == [note]
        assert artifact.bytes == target.bytes  # the plan counts the note


@pytest.mark.parametrize(("tokenizer", "target"), [("gpt-2", "onnx:fp32"), ("qwen2", "gguf:F32")])
def test_nothing_is_said_where_ids_are_right(tokenizer: str, target: str, tmp_path: Path) -> None:
    folder = Trait("right", LLAMA, nothing, tokenizer=tokenizer).make(tmp_path / "model")
    made = edgequant.quantize(folder, target, tmp_path / "out", check=False, **SETTINGS)
    assert not about_genai(made.notes)
    (artifact,) = made.artifacts
    assert "reader_notes" not in CONTAINERS[target.partition(":")[0]].provenance(artifact.path)
