"""`quantize convert`: codes go from format to format, and what has to be rounded is told."""

import json
from pathlib import Path

import numpy as np
import pytest

from quantize.checkpoint import bundled, open_checkpoint
from quantize.plan import Plan
from quantize.run import pipeline
from quantize.run.convert import Conversion, convert
from runtime.containers import recognise
from runtime.engine import open_engine
from runtime.errors import InputError, UnsupportedError

pytestmark = pytest.mark.slow

LINEAR = "blk.2.attn_q.weight"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The bundled model in several formats, by the word of --to."""
    folder = tmp_path_factory.mktemp("sources")
    to = ["gptq:int4", "gptq:int8", "gptq:int4-32-asym", "awq:int4-64", "gguf:Q4_0", "gguf:Q8_0"]
    flags = {"to": to, "rules": ["token_embd=Q8_0"], "output": folder, "method": "rtn"}
    plan = Plan.from_flags(None, flags | {"check": False})
    pipeline.run(plan)
    name = open_checkpoint(None).name
    return {target.label: target.path(folder, name) for target in plan.targets}


def made(source: Path, container: str, folder: Path) -> Conversion:
    """What `convert --exact` writes; its values are the source's."""
    found = convert(source, container, folder / "made", exact=True)
    before = open_checkpoint(source).tensors
    after = recognise(found.path).open(found.path).tensors
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[name].decode(), tensor.decode())
    assert all(weight.exact and weight.difference == 0 for weight in found.weights)
    return found


@pytest.mark.parametrize(
    ("source", "container", "kind"),
    [
        ("gptq:int4", "gguf", "Q4_0"),
        ("gptq:int4", "onnx", "INT4_128_SYM"),
        ("gptq:int4", "awq", "INT4_128_F16"),
        ("gptq:int8", "onnx", "INT8_128_SYM"),
        ("gptq:int8", "gguf", "Q8_0"),
        ("gptq:int4-32-asym", "gguf", "Q5_0"),  # float16 holds no minimum of Q4_1 for most blocks
        ("awq:int4-64", "gptq", "INT4_64_F16"),
        ("gguf:Q4_0", "onnx", "INT4_32_SYM"),
        ("gguf:Q8_0", "onnx-f16", "INT8_32_SYM_F16"),
    ],
)
def test_codes_are_kept(
    sources: dict[str, Path], source: str, container: str, kind: str, tmp_path: Path
) -> None:
    found = made(sources[source], container, tmp_path)
    assert {w.type for w in found.weights if w.name == LINEAR} == {kind}


def test_there_and_back_again(sources: dict[str, Path], tmp_path: Path) -> None:
    """Q4_0 of GGUF to GPTQ in groups of 32 and back: the same blocks, but for the sign of a scale
    whose block has no lowest code."""
    there = made(sources["gguf:Q4_0"], "gptq", tmp_path / "there")
    assert {w.type for w in there.weights if w.name == LINEAR} == {"INT4_32_SYM_F16"}
    back = made(there.path, "gguf", tmp_path / "back")
    assert {w.type for w in back.weights if w.name == LINEAR} == {"Q4_0"}


def test_what_is_converted_runs(sources: dict[str, Path], tmp_path: Path) -> None:
    found = made(sources["gptq:int4"], "onnx", tmp_path)
    ids = np.arange(48)[None]
    expected = open_engine(open_checkpoint(sources["gptq:int4"]).model(), "numpy").logits(ids)
    logits = open_engine(found.path, "onnxruntime", accuracy_level=0).logits(ids)
    assert np.abs(logits - expected).max() < 1e-3 * np.abs(expected).max()


def test_what_lies_on_no_grid_is_told_or_refused(sources: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"weights lie on no grid of awq, the first is blk"):
        convert(sources["gguf:Q8_0"], "awq", tmp_path / "refused", exact=True)
    assert not (tmp_path / "refused").exists()
    found = convert(sources["gptq:int8"], "gguf", tmp_path / "x")
    lines = {weight.name: weight.line() for weight in found.weights}
    # -128 of 8 bits has no place in Q8_0, so that some weights are rounded
    rounded = [line for line in lines.values() if "rounded, by" in line]
    assert all("to Q8_0" in line for line in rounded)
    json.dumps(found.to_json())


def test_an_unknown_container_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown container 'exe' in --to; known: awq, gguf"):
        convert(bundled(), "exe", tmp_path)


@pytest.mark.parametrize(("container", "bits"), [("gptq", 7.5), ("awq", 9)])
def test_automatic_targets_give_linears_that_readers_fuse_one_type(
    container: str, bits: float, tmp_path: Path
) -> None:
    flags = {"to": [f"{container}:auto"], "target_bpw": bits, "effort": "low", "rows": 4}
    plan = Plan.from_flags(None, flags | {"output": tmp_path, "length": 64, "check": False})
    pipeline.run(plan)
    path = plan.targets[0].path(tmp_path, open_checkpoint(None).name)
    tensors = recognise(path).open(path).tensors
    kinds = {name: tensor.qtype.name for name, tensor in tensors.items()}
    assert kinds["token_embd.weight"] == "F16"
    for layer in range(6):
        for parts in (("attn_q", "attn_k", "attn_v"), ("ffn_gate", "ffn_up")):
            assert len({kinds[f"blk.{layer}.{part}.weight"] for part in parts}) == 1
    assert len({kinds[name] for name in kinds if name.startswith("blk.") and "ffn" in name}) > 1
