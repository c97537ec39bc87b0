"""Where an artifact's context ends before the model's: told everywhere, and judged inside it."""

import json
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

import edgequant
from export import CONTAINERS
from export.genai import LONGEST_CONTEXT
from runtime.archs import FAMILIES, family_of
from runtime.errors import EdgequantError
from runtime.gguf_file import read
from tests.one_file_models import edit
from tests.windowed import WINDOWED, checkpoint_of, facts_of

SETTINGS: dict[str, Any] = {"method": "rtn", "eval_rows": 1}
NOTE = "gguf: the context ends after 64 of 1,024 tokens, because llama.cpp has no sliding windows"


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint_of("mistral", tmp_path_factory.mktemp("mistral") / "model", sliding_window=64)


@pytest.mark.slow
def test_plan_run_report_and_artifact_say_that_a_gguf_ends_at_the_window(
    mistral: Path, tmp_path: Path
) -> None:
    targets = ["gguf:F32", "onnx:fp32"]
    planned = edgequant.plan(mistral, targets, tmp_path / "out", **SETTINGS)
    made = edgequant.quantize(mistral, targets, tmp_path / "out", **SETTINGS)
    for notes in (planned.notes, made.notes):
        assert len([note for note in notes if note.startswith(NOTE)]) == 1
    assert made.report
    assert made.report.evaluation.length == 64  # inside the window every artifact is right
    gguf, onnx = made.report.results
    assert gguf.metrics.kl < 1e-6
    assert any(f"gguf: {note}".startswith(NOTE) for note in gguf.notes)
    assert not any("context ends" in note for note in onnx.notes)
    file = made.artifacts[0].path
    assert read(file).metadata["general.architecture"] == "llama"
    assert read(file).metadata["llama.context_length"] == 64
    assert "llama.attention.sliding_window" not in read(file).metadata
    assert (
        "after 64 of"
        in json.loads(CONTAINERS["gguf"].provenance(file)["edgequant.reader_notes"])[0]
    )
    assert made.artifacts[0].bytes == planned.targets[0].bytes
    with pytest.raises(EdgequantError, match="65 tokens exceed the model's context of 64"):
        edgequant.load(file).logits([1] * 65)
    found = edgequant.check(file, mistral, eval_rows=1)
    assert found.evaluation.length == 64
    with pytest.raises(EdgequantError, match="between 16 and an artifact's context of 64, not 65"):
        edgequant.check(file, mistral, eval_rows=1, eval_length=65)


def test_a_longer_evaluation_is_refused_before_work(mistral: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgequantError, match="between 16 and an artifact's context of 64, not 512"):
        edgequant.quantize(mistral, "gguf:F32", tmp_path / "out", **SETTINGS, eval_length=512)
    assert not (tmp_path / "out").exists()


def test_a_window_too_short_to_judge_is_told_the_way_out(mistral: Path, tmp_path: Path) -> None:
    model = copytree(mistral, tmp_path / "model")
    edit(model, "config.json", sliding_window=8)
    said = r"at least 16 tokens, and an artifact's context is 8: quantize without judging"
    with pytest.raises(EdgequantError, match=said):
        edgequant.quantize(model, "gguf:F32", tmp_path / "out", **SETTINGS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", WINDOWED)
def test_the_context_of_a_gguf_is_the_window_where_there_is_one(name: str) -> None:
    facts = facts_of(name, sliding_window=100)
    arch = family_of(facts).arch(facts)
    assert CONTAINERS["gguf"].context(arch) == 100
    longer = facts_of(name, sliding_window=5000)
    assert CONTAINERS["gguf"].context(family_of(longer).arch(longer)) == 1024
    full = facts_of(name, sliding_window=None, use_sliding_window=False, layer_types=None)
    assert CONTAINERS["gguf"].context(family_of(full).arch(full)) == 1024


def test_an_onnx_folder_ends_where_its_tables_do() -> None:
    facts = facts_of("qwen2", max_position_embeddings=1_010_000)
    arch = FAMILIES["qwen2"].arch(facts)
    assert CONTAINERS["onnx"].context(arch) == LONGEST_CONTEXT
