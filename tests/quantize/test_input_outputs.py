"""What is written over, renamed or deleted: artifacts alone, and never for wrong usage."""

from pathlib import Path
from typing import Any

import pytest

import edgequant
from edgequant import InputError
from quantize.checkpoint import bundled
from tests.conftest import CONFIGS, SIZES
from tests.quantize.inputs import made
from tests.random_checkpoint import random_checkpoint


def test_a_check_against_another_model_renames_nothing(folder: Path, tmp_path: Path) -> None:
    path = made(folder, "gguf:Q8_0")
    config = SIZES | CONFIGS["qwen2-tied"] | {"num_hidden_layers": 3}
    random_checkpoint(tmp_path / "other", config, bundled())
    with pytest.raises(InputError, match="2 layers .* and other 3 of .* another model; give that"):
        edgequant.check(path, against=tmp_path / "other", eval_rows=1, eval_length=64, reject=True)
    assert path.exists()


def test_a_check_against_another_family_renames_nothing(
    random_models: dict[str, Path], tmp_path: Path
) -> None:
    result = edgequant.quantize(
        random_models["llama-untied"], "gguf:Q8_0", tmp_path, method="rtn", check=False
    )
    (made,) = result.artifacts
    against = random_models["qwen2-untied"]
    with pytest.raises(InputError, match="is a llama, and .* a qwen2: it was made from another"):
        edgequant.check(made.path, against=against, eval_rows=1, eval_length=64, reject=True)
    assert made.path.exists()


def test_what_is_no_artifact_is_never_renamed_or_deleted(folder: Path) -> None:
    diary = folder.with_name("model.rejected")
    diary.mkdir()
    (diary / "notes.txt").write_text("mine")
    gates: dict[str, Any] = {"max_kl": 0, "min_top1": 1, "max_ppl_ratio": 0}
    with pytest.raises(edgequant.GateError, match="gate failed") as caught:
        edgequant.check(folder, against=folder, eval_rows=1, eval_length=64, reject=True, **gates)
    assert folder.exists() and (diary / "notes.txt").read_text() == "mine"
    assert "keeps its name" in str(caught.value.result.results[0].notes)
    path = made(folder, "gguf:Q8_0")
    older = path.with_name(path.name + ".rejected")
    older.mkdir()
    (older / "notes.txt").write_text("mine")
    with pytest.raises(edgequant.GateError):
        edgequant.check(path, against=folder, eval_rows=1, eval_length=64, reject=True, **gates)
    assert path.exists() and (older / "notes.txt").exists()


def test_overwrite_replaces_artifacts_alone(folder: Path) -> None:
    out = folder.parent / "out"
    diary = out / "model-int4-onnx"
    diary.mkdir(parents=True)
    (diary / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is no artifact, so it is not overwritten"):
        made(folder, "onnx:int4")
    assert (diary / "notes.txt").read_text() == "mine"
    (out / "model-Q8_0.gguf").mkdir()
    with pytest.raises(InputError, match="is a folder; move it away"):
        made(folder, "gguf:Q8_0")


def test_overwrite_replaces_a_modelfile_of_ours_alone(folder: Path) -> None:
    path = made(folder, "gguf:Q8_0")
    modelfile = path.with_suffix(".Modelfile")
    modelfile.write_text(modelfile.read_text() + "PARAMETER seed 1\n")
    made(folder, "gguf:Q8_0")
    assert "seed" not in modelfile.read_text()
    modelfile.write_text("FROM mine")
    with pytest.raises(InputError, match="Modelfile was not written by edgequant, so it is not"):
        made(folder, "gguf:Q8_0")
    path.unlink()
    with pytest.raises(InputError, match="Modelfile exists; use overwrite"):
        made(folder, "gguf:Q8_0", overwrite=False)
    assert modelfile.read_text() == "FROM mine"
    gates: dict[str, Any] = {"max_kl": 0, "min_top1": 1, "max_ppl_ratio": 0}
    modelfile.rename(modelfile.with_name("mine"))
    made(folder, "gguf:Q8_0")
    modelfile.write_text("FROM mine")
    with pytest.raises(edgequant.GateError):
        edgequant.check(path, against=folder, eval_rows=1, eval_length=64, reject=True, **gates)
    assert not path.exists() and modelfile.read_text() == "FROM mine"


def test_a_name_that_no_modelfile_can_say_leaves_it_out_aloud(folder: Path) -> None:
    odd = folder.rename(folder.with_name("two\nlines"))
    told = edgequant.quantize(
        odd, "gguf:Q8_0", folder.parent / "out", method="rtn", eval_rows=1, eval_length=64
    )
    assert told.report is not None
    assert any("a Modelfile cannot say" in note for note in told.report.results[0].notes)
    assert not list((folder.parent / "out").glob("*.Modelfile"))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_kl": float("nan")}, "max_kl must be at least 0, not nan"),
        ({"max_kl": float("inf")}, "max_kl must be at least 0, not inf"),
        ({"min_top1": 85}, "min_top1 must be at least 0 and at most 1, not 85"),
        ({"max_ppl_ratio": -1}, "max_ppl_ratio must be at least 0, not -1"),
    ],
)
def test_check_refuses_limits_before_it_measures(
    limits: dict[str, Any], message: str, folder: Path
) -> None:
    with pytest.raises(InputError, match=message):
        edgequant.check(folder / "none.gguf", against=folder, **limits)


def test_a_report_folder_that_is_a_file_is_refused_before_work(folder: Path) -> None:
    (folder.parent / "report").write_text("")
    with pytest.raises(InputError, match="report is a file; choose another folder"):
        edgequant.check(folder / "none.gguf", against=folder, report=folder.parent / "report")


def test_a_file_of_the_users_is_no_artifact_that_was_rejected(folder: Path) -> None:
    path = made(folder, "gguf:Q8_0")
    notes = path.with_name(path.name + ".rejected")
    notes.write_text("mine")
    gates: dict[str, Any] = {"max_kl": 0, "min_top1": 1, "max_ppl_ratio": 0}
    with pytest.raises(edgequant.GateError) as caught:
        edgequant.check(path, against=folder, eval_rows=1, eval_length=64, reject=True, **gates)
    assert "is something else" in caught.value.result.results[0].notes[-1]
    assert path.exists() and notes.read_text() == "mine"


@pytest.mark.parametrize("name", ["README.md", "report.json", "report.html"])
def test_overwrite_replaces_reports_of_ours_alone(name: str, folder: Path) -> None:
    flags: dict[str, Any] = {"check": True, "eval_rows": 1, "eval_length": 64}
    made(folder, "gguf:Q8_0", **flags)
    made(folder, "gguf:Q8_0", **flags)  # over its own
    written = folder.parent / "out" / name
    written.write_text("# Mine")
    with pytest.raises(InputError, match=f"{name} was not written by edgequant, so it is not"):
        made(folder, "gguf:Q8_0", **flags)
    assert written.read_text() == "# Mine"


def test_an_output_whose_name_is_not_utf8_is_told_before_work(folder: Path) -> None:
    with pytest.raises(InputError, match=r"the name 'o\\udcff' is not UTF-8; rename it"):
        edgequant.plan(folder, to="gguf:Q8_0", output="o\udcff")
