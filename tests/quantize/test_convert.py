"""`quantize convert`: codes go from format to format, and what has to be rounded is told."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from quantize.checkpoint import bundled, open_checkpoint
from quantize.cli.program import app
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


def without_codes_of_zero(path: Path, group: int = 128) -> None:
    """Rewrite a checkpoint: linears on a grid of 4 bits whose zero points are 0 to 15, in bf16."""
    arrays = load_file(path / "model.safetensors")
    rng = np.random.default_rng(5)
    for name, array in arrays.items():
        if "_proj.weight" not in name:
            continue
        rows, cols = array.shape
        zeros = rng.integers(0, 16, (rows, cols // group, 1))
        codes = rng.integers(0, 16, (rows, cols // group, group))
        codes[..., 0], codes[..., 1] = 0, 15
        scales = rng.uniform(0.001, 0.01, zeros.shape).astype(np.float16).astype(np.float32)
        values = ((codes - zeros) * scales).reshape(rows, cols)
        arrays[name] = torch.from_numpy(values.astype(np.float32)).to(torch.bfloat16)
    save_file(arrays, path / "model.safetensors", metadata={"format": "pt"})


def test_zero_points_of_0_stay_where_the_format_can_say_them(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(bundled(), source)
    without_codes_of_zero(source)
    found = convert(source, "awq", tmp_path / "awq", exact=True)
    (weight,) = [weight for weight in found.weights if weight.name == LINEAR]
    assert (weight.type, weight.exact) == ("INT4_128_F16", True)
    assert f"exact: BF16 had rounded its grid, by {weight.difference:.3g} at most" in weight.line()
    # GPTQ stores a zero point less 1: more bits have room for another one
    other = convert(found.path, "gptq", tmp_path / "gptq", exact=True)
    (weight,) = [weight for weight in other.weights if weight.name == LINEAR]
    assert weight.type.startswith("INT8") and weight.difference == 0
    plan = Plan.from_flags(None, {"to": ["gptq:int4-asym"], "model": str(found.path)})
    with pytest.raises(UnsupportedError, match="blk.0.* has a zero point of 0, which GPTQ stores"):
        pipeline.run(replace(plan, output=tmp_path / "none", check=False))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("container", "sentence"),
    [
        (
            "gptq",
            "no linear of tiny-.* lies on a grid of gptq, .*`quantize run --to gptq:int4`",
        ),
        ("gguf:Q4_0", "takes a container alone, as --to gguf: .*`quantize run --to gguf:Q4_0`"),
    ],
)
def test_what_convert_cannot_do_names_what_can(
    container: str, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=sentence):
        convert(bundled(), container, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_groups_of_several_sizes_become_those_of_the_smallest(tmp_path: Path) -> None:
    flags = {"to": ["gptq:int4-act"], "output": tmp_path, "check": False}
    plan = Plan.from_flags(None, flags | {"effort": "low", "rows": 4, "length": 64})
    pipeline.run(plan)
    source = plan.targets[0].path(tmp_path, open_checkpoint(None).name)
    found = {w.name: w for w in convert(source, "awq", tmp_path / "awq").weights}
    down = found["blk.0.ffn_down.weight"]
    assert (down.type, down.exact) == ("INT4_32_F16", True)
    assert found["blk.0.attn_q.weight"].type == "INT4_32_F16"


def test_several_containers_are_written_one_after_the_other(
    sources: dict[str, Path], tmp_path: Path
) -> None:
    words = ["convert", str(sources["gguf:Q4_0"]), "--to", "onnx", "--to", "gptq", "--json"]
    done = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "x")])
    assert done.exit_code == 0, done.output
    paths = [Path(one["path"]) for one in json.loads(done.stdout)]
    assert [path.exists() for path in paths] == [True, True]
    words = ["convert", str(sources["gguf:Q4_0"]), "--to", "onnx", "--to", "exe"]
    done = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "y")])
    assert isinstance(done.exception, InputError) and not (tmp_path / "y").exists()
