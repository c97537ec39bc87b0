"""What has one right answer: faults are named, and good artifacts are not blamed."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from quantize.checkpoint import Checkpoint
from quantize.loading import files_of, open_model
from quantize.report.scan import scan
from quantize.report.sensitivity import part_of
from quantize.verification import verify
from runtime.errors import EdgequantError
from tests.quantize.exact import gguf_faults, onnx_faults
from tests.quantize.exact.conftest import compared


@pytest.mark.parametrize("target", ["gguf:Q4_K_M", "onnx:int4", "gptq:int4", "awq:int4-32"])
def test_a_good_artifact_has_no_differences(original, good, target) -> None:
    found = compared(original, good[target])
    assert found.differences == ()
    assert found.notes == ()


@pytest.mark.parametrize("name", gguf_faults.FAULTS)
def test_a_fault_of_a_gguf_file_is_named(original, good, tmp_path, name) -> None:
    fault, where = gguf_faults.FAULTS[name]
    path = gguf_faults.with_fault(good["gguf:Q4_K_M"], tmp_path / "x.gguf", fault)
    named(original, path, where)


@pytest.mark.parametrize("name", onnx_faults.FAULTS)
def test_a_fault_of_an_onnx_folder_is_named(original, good, tmp_path, name) -> None:
    fault, where = onnx_faults.FAULTS[name]
    path = Path(shutil.copytree(good["onnx:int4"], tmp_path / "x"))
    fault(path)
    named(original, path, where)


@pytest.mark.parametrize("effort", ["rtn", "scaled"])
@pytest.mark.parametrize("name", gguf_faults.TENSOR_FAULTS)
def test_a_fault_of_a_tensor_is_named(original, good, scaled, tmp_path, effort, name) -> None:
    tensor, fault, where = gguf_faults.TENSOR_FAULTS[name]
    file = good["gguf:Q4_K_M"] if effort == "rtn" else scaled
    path = gguf_faults.with_tensor_fault(file, tmp_path / "x.gguf", tensor, fault)
    found = scan(original.model(), open_model(path))
    assert found.problems == ()
    assert any(where in told for told in found.faults), found.faults
    assert all(part_of(tensor) in told for told in found.faults), found.faults


@pytest.mark.parametrize("effort", ["rtn", "scaled"])
def test_good_weights_are_not_blamed(original, good, scaled, effort) -> None:
    files = list(good.values()) if effort == "rtn" else [scaled]
    for path in files:
        assert scan(original.model(), open_model(path)).faults == ()


def named(original: Checkpoint, path: Path, where: str) -> None:
    """What differs is where the fault is, and nowhere else."""
    told = compared(original, path).differences
    assert told
    assert all(where in difference.where for difference in told), told


@pytest.mark.parametrize("target", ["gguf:Q4_K_M", "onnx:int4", "gptq:int4", "awq:int4-32"])
def test_every_changed_byte_is_seen_without_a_model(good, tmp_path, target) -> None:
    path = tmp_path / good[target].name
    copy = shutil.copytree if good[target].is_dir() else shutil.copyfile
    copy(good[target], path)
    assert verify(path)["changes"] == []
    draw = np.random.default_rng(0)
    for file in files_of(path):
        content = file.read_bytes()
        for at in draw.integers(0, len(content), 40).tolist():
            bit = content[at] ^ (1 << int(draw.integers(8)))
            file.write_bytes(content[:at] + bytes([bit]) + content[at + 1 :])
            assert refused(path), (file.name, at)
        file.write_bytes(content + b"x")
        assert refused(path), file.name
        file.write_bytes(content)
    if path.is_dir():
        (path / "more.txt").write_text("x")
        assert verify(path)["changes"] == ["file more.txt was not written with it"]


def refused(path: Path) -> bool:
    """Whether a file is told to have changed, or cannot be read."""
    try:
        return bool(verify(path)["changes"])
    except EdgequantError:
        return True


def test_the_tensor_that_changed_is_named(good, tmp_path) -> None:
    tensor, fault, _ = gguf_faults.TENSOR_FAULTS["a key bias of zeros"]
    path = gguf_faults.with_tensor_fault(good["gguf:Q4_K_M"], tmp_path / "x.gguf", tensor, fault)
    assert verify(path)["changes"] == [f"tensor {tensor} is not what was written"]
