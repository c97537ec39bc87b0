"""onnxruntime's quantizers run on our export, and make files of the size that ours have."""

import sys
from pathlib import Path

import pytest

import edgequant
from bench import judge, rival_onnx
from quantize.checkpoint import Checkpoint
from runtime.errors import EdgequantError

pytest.importorskip("onnx_ir", reason="onnx-ir is not installed: pip install onnx-ir")

QUANTIZER = "onnxruntime.quantization.matmul_nbits_quantizer"


@pytest.mark.parametrize("algorithm", ["default", "k_quant", "hqq"])
def test_a_rival_runs_and_differs_from_ours_in_its_linears_alone(
    algorithm: str, tiny: Checkpoint, tmp_path: Path
) -> None:
    original, source = rival_onnx.originals(tiny, tmp_path / "originals")
    theirs = rival_onnx.quantize(tiny, source, tmp_path / algorithm, algorithm)
    made = edgequant.quantize(to="onnx:int4", output=tmp_path / "ours", method="rtn", check=False)
    ours = made.artifacts[0].path
    sizes = [rival_onnx.weight_bytes(folder) for folder in (theirs, ours)]
    # hqq's zero points are floats
    assert sizes[0] > sizes[1] if algorithm == "hqq" else sizes[0] == sizes[1]
    engines = {"theirs": rival_onnx.open_engine(theirs), "ours": rival_onnx.open_engine(ours)}
    found = judge.judge(rival_onnx.open_engine(original), engines, judge.read(tiny, [], 1))
    assert found["theirs"].mean == pytest.approx(found["ours"].mean, rel=0.5)


def test_without_onnx_ir_it_says_what_to_install(
    tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, QUANTIZER, raising=False)
    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    with pytest.raises(EdgequantError, match=r"needs onnx_ir; pip install onnx-ir"):
        rival_onnx.quantize(tiny, tmp_path, tmp_path / "made", "default")
