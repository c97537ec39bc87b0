"""Folders with float16 scales, run with onnxruntime's graph optimizer off as well."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from quantize.checkpoint import Checkpoint
from quantize.report import judge
from quantize.report.unfolded import unfolded_notes
from runtime.engine import open_engine
from tests.quantize.report.conftest import FLAGS, Steps, rounded, write_onnx

IDS = np.arange(40) % 200


@pytest.fixture(scope="module")
def half(small: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scales in float16."""
    path = tmp_path_factory.mktemp("half") / "half"
    write_onnx(path, small, rounded(small, "INT4_32_F16"))
    return path


def set_level(path: Path, level: int) -> None:
    """Write another accuracy_level into every product of the graph."""
    model = onnx.load(str(path / "model.onnx"), load_external_data=False)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = level
    onnx.save(model, str(path / "model.onnx"))


def test_check_names_the_danger_of_float16_scales(half: Path, small: Checkpoint) -> None:
    (result,) = judge.check_files(
        [half], str(small.folder), None, "native", FLAGS, Steps(), effects=False
    ).results
    (note,) = [note for note in result.notes if "ORT_DISABLE_ALL" in note]
    assert "nothing but zeros" in note
    assert "keep optimization on" in note
    assert not result.failures


def test_what_computes_the_same_either_way_is_no_danger(half: Path, int4: Path, tmp_path) -> None:
    assert unfolded_notes(int4, open_engine(int4, "onnxruntime"), IDS) == ()  # float32 scales
    exact = tmp_path / "exact"
    exact.mkdir()
    for file in half.iterdir():
        (exact / file.name).write_bytes(file.read_bytes())
    set_level(exact, 0)
    assert unfolded_notes(exact, open_engine(exact, "onnxruntime"), IDS) == ()
    set_level(exact, 4)
    assert unfolded_notes(exact, open_engine(exact, "onnxruntime"), IDS)
