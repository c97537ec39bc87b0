"""Runs whose source is a GGUF file: what comes out, what is copied, and what is said of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgequant
from export.gguf_general import provenance
from quantize.checkpoint import Checkpoint, bundled, open_checkpoint
from quantize.run.forecast import forecast
from quantize.run.pipeline import run
from runtime.gguf_file import open_gguf
from runtime.onnx_file import READER as ONNX
from tests.gguf_made import bytes_alphabet, tiny_gguf
from tests.quantize.runs import small_plan


@pytest.fixture(scope="module")
def files(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The bundled model in BF16, which holds it exactly, and in llama.cpp's mixture Q4_K_M."""
    out = tmp_path_factory.mktemp("sources")
    to = ("gguf:BF16", "gguf:Q4_K_M")
    run(small_plan(bundled(), *to, method="rtn", check=False, output=out))
    return {preset: out / f"tiny-qwen2.5-{preset}.gguf" for preset in ("BF16", "Q4_K_M")}


def made(source: Path, output: Path, *to: str, **flags: Any) -> dict[str, Path]:
    """The artifacts of a run without a report, by target."""
    plan = small_plan(source, *to, check=False, output=output, **flags)
    run(plan)
    return {t.label: t.path(output, open_checkpoint(source).name) for t in plan.targets}


def assert_equal_tensors(one: Path, other: Path) -> None:
    """Every tensor has the same type and bytes."""
    found, meant = open_gguf(one).tensors, open_gguf(other).tensors
    assert set(found) == set(meant)
    for name, tensor in meant.items():
        assert found[name].qtype.name == tensor.qtype.name, name
        assert np.array_equal(found[name].data, tensor.data), name


@pytest.mark.slow
def test_a_file_in_bf16_gives_what_the_checkpoint_gives(
    files: dict[str, Path], tmp_path: Path
) -> None:
    to = ("gguf:Q4_0", "onnx:int4")
    ways = [made(source, tmp_path / source.name, *to) for source in (bundled(), files["BF16"])]
    meant, found = ways
    assert_equal_tensors(found["gguf:Q4_0"], meant["gguf:Q4_0"])
    one, other = (ONNX.open(way["onnx:int4"]) for way in ways)
    assert one.arch == other.arch
    for name, tensor in one.tensors.items():
        assert np.array_equal(other.tensors[name].decode(), tensor.decode()), name
    left, right = (open_gguf(way["gguf:Q4_0"]).tokenizer for way in ways)
    assert left is not None
    assert right is not None
    assert left.chat_template == right.chat_template
    assert left.eos == right.eos


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_the_same_mixture_again_keeps_every_byte(
    method: str, files: dict[str, Path], tmp_path: Path
) -> None:
    found = made(files["Q4_K_M"], tmp_path, "gguf:Q4_K_M", method=method)
    assert found["gguf:Q4_K_M"].name == "tiny-qwen2.5-Q4_K_M-Q4_K_M.gguf"
    assert_equal_tensors(found["gguf:Q4_K_M"], files["Q4_K_M"])


@pytest.mark.slow
@pytest.mark.parametrize(("method", "effort"), [("gptq", "high"), ("awq", "low")])
def test_what_has_another_type_is_rounded_beside_copied_weights(
    method: str, effort: str, files: dict[str, Path], tmp_path: Path
) -> None:
    flags = {"method": method, "effort": effort, "rules": ["attn_q=Q4_0"]}
    found = made(files["Q4_K_M"], tmp_path, "gguf:Q4_K_M", **flags)["gguf:Q4_K_M"]
    names = {tensor.name for tensor in open_gguf(found).tensors.values() if tensor.is_matrix}
    ours, source = open_gguf(found).tensors, open_gguf(files["Q4_K_M"]).tensors
    for name in names:
        same = np.array_equal(ours[name].data, source[name].data)
        assert same != ("attn_q" in name), name
    told = json.loads(provenance(found)["edgequant.copied"])
    assert told == [
        "37 of 43 weights are copied from the source, whose type they have, and not rounded "
        "again: Q4_K attn_k, attn_output, attn_v, ffn_down, ffn_gate, ffn_up; Q6_K attn_v, "
        "ffn_down, token_embd"
    ]


@pytest.mark.slow
def test_an_automatic_target_keeps_the_source_s_types_where_it_can(
    files: dict[str, Path], tmp_path: Path
) -> None:
    size = files["Q4_K_M"].stat().st_size * 9 // 10
    found = made(files["Q4_K_M"], tmp_path, "gguf:auto", target_size=size)["gguf:auto"]
    assert found.stat().st_size <= size
    source, ours = (open_gguf(path).tensors for path in (files["Q4_K_M"], found))
    weights = [tensor for tensor in source.values() if tensor.is_matrix]
    same = [tensor for tensor in weights if np.array_equal(tensor.data, ours[tensor.name].data)]
    assert len(weights) / 2 < len(same) < len(weights)
    for tensor in weights:
        # a wider type would cost bytes and bring nothing
        assert ours[tensor.name].qtype.bits <= tensor.qtype.bits


def test_a_plan_says_what_is_copied(files: dict[str, Path]) -> None:
    to = ("gguf:Q4_K_M", "onnx:int4")
    same, other = forecast(small_plan(files["Q4_K_M"], *to, check=False)).targets
    assert {(t.copied, t.error) for t in same.tensors} == {(True, 0.0)}
    assert not any(tensor.copied for tensor in other.tensors)
    assert min(tensor.error for tensor in other.tensors) > 0


@pytest.mark.slow
def test_a_report_says_what_it_compares_with_and_what_is_copied(
    files: dict[str, Path], tmp_path: Path
) -> None:
    to = ("gguf:Q4_K_M", "gguf:Q8_0")
    flags = {"method": "rtn", "eval_rows": 2, "output": tmp_path}
    report = run(small_plan(files["Q4_K_M"], *to, **flags))
    assert report is not None
    same, other = report.results
    assert {f.copied for f in same.tensors if len(f.shape) > 1} == {True}
    assert not any(fact.copied for fact in other.tensors)
    assert same.notes[0].startswith("43 of 43 weights are copied from the source")
    assert report.notes[0].startswith("the source is the GGUF tiny-qwen2.5-Q4_K_M.gguf (38 x Q4_K")
    assert report.failures == []
    notes = json.loads(provenance(tmp_path / same.file)["edgequant.plan"])["source_notes"]
    assert notes[0] == report.notes[0]


@pytest.mark.slow
def test_files_are_held_against_a_file(files: dict[str, Path]) -> None:
    flags = {"eval_rows": 2, "eval_length": 64}
    report = edgequant.check(files["Q4_K_M"], against=files["BF16"], **flags)
    against = edgequant.check(files["Q4_K_M"], against=bundled(), **flags)
    (found,), (meant,) = report.results, against.results
    assert found.metrics.kl == pytest.approx(meant.metrics.kl, rel=1e-3)
    assert report.original.name == "tiny-qwen2.5-BF16"
    rows = edgequant.compare([files["Q4_K_M"]], against=files["BF16"], **flags)
    assert rows.results[0].metrics.kl == pytest.approx(meant.metrics.kl, rel=1e-3)


@pytest.mark.slow
def test_the_python_interface_takes_a_file(files: dict[str, Path], tmp_path: Path) -> None:
    made = edgequant.quantize(
        files["BF16"], to="onnx:int8", output=tmp_path, method="rtn", check=False
    )
    (artifact,) = made.artifacts
    assert Path(artifact.path).name == "tiny-qwen2.5-BF16-int8-onnx"


@pytest.mark.slow
def test_two_openings_give_the_same_bytes(files: dict[str, Path], tmp_path: Path) -> None:
    one, other = (
        made(files["Q4_K_M"], tmp_path / name, "gguf:Q4_0", method="rtn")["gguf:Q4_0"]
        for name in "ab"
    )
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_an_importance_matrix_is_made_of_a_file(
    files: dict[str, Path], run: Any, tmp_path: Path
) -> None:
    path, small = tmp_path / "m.gguf", ("--calib-rows", 2, "--calib-length", 64)
    code, out, _ = run("imatrix", files["Q4_K_M"], "-o", path, *small)
    assert code == 0
    assert "43 weights" in out
    plan = small_plan(
        files["Q4_K_M"], "gguf:Q4_0", imatrix=path, check=False, output=tmp_path / "o"
    )
    assert {t.type for t in forecast(plan).targets[0].tensors} == {"Q4_0", "Q6_K"}


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_file_of_another_kind_is_refused_before_anything_is_written(
    command: str, run: Any, tmp_path: Path
) -> None:
    keys = {"general.type": "mmproj"}
    path = tiny_gguf(tmp_path / "m.gguf", [*bytes_alphabet(), "ab"], keys)
    out = ["-o", tmp_path / "out"] if command == "run" else []
    code, _, err = run(command, path, "--to", "gguf:Q4_0", *out)
    assert code == 2
    assert "is the vision tower of a model and not the model" in " ".join(err.split())
    assert not (tmp_path / "out").exists()


def test_transformers_does_not_run_the_original(files: dict[str, Path]) -> None:
    with pytest.raises(edgequant.InputError, match="asked for checkpoint folders alone; leave out"):
        edgequant.check(files["Q4_K_M"], against=files["BF16"], reference="transformers")
