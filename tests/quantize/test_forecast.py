"""A forecast says what the run then does."""

import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from rich.console import Console

from quantize.checkpoint import open_checkpoint
from quantize.forecast import Forecast, forecast, render
from quantize.methods.rtn import rtn
from quantize.pipeline import run
from runtime.blocks import BLOCKS
from tests.quantize.runs import small_plan, walk


@pytest.fixture(scope="module")
def found(random_models: dict[str, Path]) -> Forecast:
    plan = small_plan(
        random_models["qwen2-untied"], "onnx:int4", "onnx:int4-128", rules=["attn_[qk]=INT8_32"]
    )
    return forecast(plan)


def test_bytes_are_those_of_the_written_file(
    random_models: dict[str, Path], tmp_path: Path
) -> None:
    plan = small_plan(random_models["qwen2-untied"], "onnx:int4", check=False, output=str(tmp_path))
    run(plan)
    folder = tmp_path / "qwen2-untied-int4-onnx"
    graph = onnx.load(str(folder / "model.onnx"), load_external_data=False).graph
    lengths = {
        proto.name: int(entry.value)
        for proto in graph.initializer
        for entry in proto.external_data
        if entry.key == "length"
    }
    weights = sum(size for name, size in lengths.items() if not name.startswith("rope."))
    assert forecast(plan).targets[0].bytes == pytest.approx(weights, rel=0.01)


def test_bytes_are_exactly_those_of_a_gguf_file(
    random_models: dict[str, Path], tmp_path: Path
) -> None:
    plan = small_plan(random_models["qwen2-untied"], "gguf:Q4_K_M", "gguf:Q8_0", method="rtn")
    made = walk(plan, tmp_path / "work")
    for target, expected in enumerate(forecast(plan).targets):
        tensors = made.tensors(target)
        assert expected.bytes == sum(t.nbytes for t in tensors.values())
        for part in expected.tensors:
            assert part.type == tensors[part.name].block.name
            assert part.bytes == tensors[part.name].nbytes


def test_errors_are_those_of_plain_rounding(
    random_models: dict[str, Path], found: Forecast
) -> None:
    # a key projection has 32 rows, fewer than the sample, so all of them were rounded
    weight = open_checkpoint(random_models["qwen2-untied"]).tensors["blk.0.attn_v.weight"].decode()
    rounded = rtn(torch.from_numpy(weight), BLOCKS["INT4_32"]).value.numpy()
    error = ((rounded - weight) ** 2).sum() / (weight**2).sum()
    part = next(t for t in found.targets[0].tensors if t.name == "blk.0.attn_v.weight")
    assert part.error == pytest.approx(float(error), rel=1e-5)
    assert all(0 < t.error < 0.02 for t in found.targets[0].tensors)
    mean = np.average(
        [t.error for t in found.targets[0].tensors],
        weights=[np.prod(t.shape) for t in found.targets[0].tensors],
    )
    assert found.targets[0].error == pytest.approx(mean)


def test_an_uncalibrated_method_needs_no_tokens_and_less_disk(
    random_models: dict[str, Path],
) -> None:
    plain, calibrated = (
        forecast(small_plan(random_models["llama-tied"], "onnx:int4", method=method, rows=200_000))
        for method in ("rtn", "gptq")
    )
    assert (calibrated.calibration_tokens, plain.calibration_tokens) == (200_000 * 64, 0)
    assert calibrated.disk - plain.disk == 3 * 4 * 200_000 * 64 * 96
    assert plain.memory < calibrated.memory
    assert 0 < plain.seconds < calibrated.seconds


def test_the_screen_shows_types_totals_and_fallbacks(found: Forecast) -> None:
    out = io.StringIO()
    Console(width=120, markup=False, file=out).print(render(found))
    text = out.getvalue()
    assert "4 x attn_q" not in text
    for shown in ("2 x attn_q", "INT8_32", "256 calibration tokens", "cannot be INT4_128"):
        assert shown in text
    for target in found.targets:
        assert f"{target.bytes:,} bytes of weights, {target.bits_per_weight:.2f} bits" in text


def test_json_holds_every_tensor(found: Forecast) -> None:
    values = json.loads(json.dumps(found.to_json()))
    assert len(values["targets"][0]["tensors"]) == 2 * 7 + 2
