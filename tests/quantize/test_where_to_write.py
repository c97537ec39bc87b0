"""Where nothing can be written is told before any work, and figures are never lost by it."""

import errno
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import calib_data
import edgequant
from export.files import check_folder
from quantize.calibration import make_imatrix
from quantize.checkpoint import bundled
from quantize.report import judge
from quantize.run.store import Store
from runtime.errors import InputError
from tests.conftest import CONFIGS, SIZES
from tests.random_checkpoint import random_checkpoint

linux = pytest.mark.skipif(sys.platform != "linux", reason="no /proc, where nobody makes a file")
BRIEF: dict[str, Any] = {"eval_rows": 1, "eval_length": 64}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2; beside it, in `out`, a GGUF file of it."""
    folder = tmp_path_factory.mktemp("where") / "model"
    random_checkpoint(folder, SIZES | CONFIGS["qwen2-tied"], bundled())
    edgequant.quantize(folder, "gguf:Q8_0", folder.parent / "out", method="rtn", check=False)
    return folder


@pytest.fixture
def artifact(model: Path) -> Path:
    return model.parent / "out" / "model-Q8_0.gguf"


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test in which anything is computed."""

    def work(*given: Any, **more: Any) -> None:
        pytest.fail("the work began")

    monkeypatch.setattr(judge, "measure", work)
    monkeypatch.setattr(Store, "begin", work)


PLACES = [
    pytest.param(Path("/proc/nowhere/deeper"), r"cannot write in /proc/nowhere", marks=linux),
    pytest.param(Path("file/sub"), r"file is a file", id="under a file"),
    pytest.param(Path("file"), r"file is a file", id="a file"),
]


@pytest.mark.parametrize(("place", "message"), PLACES)
def test_a_folder_that_takes_no_file_is_refused(place: Path, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=f"{message}.*; choose another folder with -x") as caught:
        check_folder(tmp_path / place, "-x")
    assert "\n" not in str(caught.value)


def test_a_folder_that_takes_files_is_left_as_it_was(tmp_path: Path) -> None:
    check_folder(tmp_path / "new" / "deeper")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("place", "message"), PLACES)
def test_reports_that_cannot_be_written_are_told_before_the_work(
    place: Path, message: str, model: Path, artifact: Path, tmp_path: Path, no_work: None
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=f"{message}.* with report"):
        edgequant.check(artifact, against=model, report=tmp_path / place, **BRIEF)


@pytest.mark.parametrize("place", [place.values[0] for place in PLACES])
def test_outputs_that_cannot_be_written_are_told_before_the_work(
    place: Path, model: Path, tmp_path: Path, no_work: None
) -> None:
    if not place.is_absolute() or sys.platform == "linux":
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match=r"cannot write in .*; .* folder with output"):
            edgequant.quantize(model, "gguf:Q4_0", tmp_path / place, method="rtn", **BRIEF)


def test_a_folder_in_the_place_of_a_file_is_told_before_the_work(
    model: Path, tmp_path: Path, no_work: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "report.json").mkdir()
    with pytest.raises(InputError, match=r"report.json is a folder; choose another folder"):
        edgequant.quantize(model, "gguf:Q4_0", tmp_path, method="rtn", overwrite=True, **BRIEF)
    monkeypatch.setattr(calib_data, "load", lambda *given, **more: pytest.fail("the work began"))
    (tmp_path / "x.gguf").mkdir()
    request = make_imatrix.ImatrixRequest(tmp_path / "x.gguf", model=str(model), overwrite=True)
    with pytest.raises(InputError, match=r"x.gguf is a folder; choose another name"):
        make_imatrix.make(request)


@pytest.mark.slow
def test_a_failed_gate_has_its_figures_where_nothing_can_be_renamed(
    model: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.replace

    def replace(old: Any, new: Any) -> None:
        if str(new).endswith(".rejected"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        real(old, new)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(edgequant.GateError) as caught:
        edgequant.check(artifact, against=model, reject=True, max_ppl_ratio=0, **BRIEF)
    (result,) = caught.value.result.results
    assert result.file == artifact.name and artifact.exists()
    assert result.metrics.kl < 0.1
    assert "keeps its name, though it failed: [Errno 30] Read-only file system" in result.notes[-1]
