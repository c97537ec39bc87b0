"""Whatever a user points at is opened, run and described."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from quantize import loading
from quantize.checkpoint import Checkpoint, bundled
from quantize.inspection import describe, render_description
from quantize.loading import kind, open_any, open_model
from quantize.run.pipeline import run
from runtime.errors import EdgequantError
from tests.conftest import CONFIGS
from tests.quantize.runs import small_plan


@pytest.fixture(scope="module")
def folder(random_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX folder made by a run, with a rule that has square brackets."""
    out = tmp_path_factory.mktemp("made")
    rules = ["attn_[qk]=INT8_32"]
    run(
        small_plan(
            random_models["qwen2-tied"], "onnx:int4", check=False, output=str(out), rules=rules
        )
    )
    return out / "qwen2-tied-int4-onnx"


def shown(path: Path) -> str:
    """The description as a wide terminal shows it."""
    out = io.StringIO()
    Console(width=200, markup=False, file=out).print(render_description(describe(path)))
    return out.getvalue()


def test_each_kind_is_told_by_its_content(folder: Path, tmp_path: Path) -> None:
    assert kind(folder) == "onnx"
    assert kind(bundled()) == "checkpoint"
    named = tmp_path / "weights.bin"
    named.write_bytes(b"GGUF" + bytes(20))
    assert kind(named) == "gguf"


def test_a_folder_with_a_graph_is_onnx_whatever_else_it_holds(folder: Path) -> None:
    assert (folder / "config.json").exists()
    assert kind(folder) == "onnx"


def test_a_folder_of_no_kind_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    message = (
        "has no model.onnx and no config.json; "
        "give a .gguf file, an ONNX folder, a GPTQ folder, an AWQ folder or a checkpoint folder"
    )
    with pytest.raises(EdgequantError, match=message):
        kind(tmp_path)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            {"quantization_config": {"quant_method": "aqlm"}},
            r"is already quantized \(aqlm\), which is not read, only auto-round, awq, ",
        ),
        ({}, r"holds pickled weights, which can run code when opened \(pytorch_model.bin\)"),
    ],
)
def test_a_checkpoint_of_another_kind_is_told_and_refused(
    tmp_path: Path, facts: dict[str, object], message: str
) -> None:
    config = json.loads((bundled() / "config.json").read_text()) | facts
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    assert kind(tmp_path) == "checkpoint"
    with pytest.raises(EdgequantError, match=message):
        open_model(tmp_path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.gguf").write_text("notes")
    with pytest.raises(EdgequantError, match="notes.gguf is not a GGUF file; give a .gguf file"):
        kind(tmp_path / "notes.gguf")
    with pytest.raises(EdgequantError, match="none does not exist; give a .gguf file"):
        kind(tmp_path / "none")


def test_a_description_adds_up(folder: Path) -> None:
    found = describe(folder)
    json.dumps(found)
    assert found["container"] == "onnx"
    assert found["bytes"] == sum(f.stat().st_size for f in folder.iterdir())
    assert found["weights"] == sum(int(np.prod(t["shape"])) for t in found["tensors"])
    packed = sum(t["bytes"] for t in found["tensors"])
    assert found["bits_per_weight"] == pytest.approx(8 * packed / found["weights"])
    assert found["arch"]["hidden"] == 96
    assert found["arch"]["rope"]["theta"] == 1e6
    types = {t["name"]: t["type"] for t in found["tensors"]}
    assert types["blk.0.attn_q.weight"] == "INT8_32"
    assert types["blk.0.ffn_up.weight"] == "INT4_32"


def test_a_description_shows_where_the_file_comes_from(folder: Path) -> None:
    provenance = describe(folder)["provenance"]
    assert provenance["method"] == "gptq"
    assert json.loads(provenance["plan"])["rules"] == ["attn_[qk]=INT8_32"]
    text = shown(folder)
    assert "attn_[qk]=INT8_32" in text
    assert str(folder) in text


def test_a_checkpoint_is_described_too(random_models: dict[str, Path]) -> None:
    row = next(line for line in shown(random_models["llama-tied"]).splitlines() if "BF16" in line)
    assert "100.0%" in row


@pytest.mark.parametrize("name", CONFIGS)
def test_a_checkpoint_opens_as_a_model_of_all_its_tensors(
    name: str, random_models: dict[str, Path]
) -> None:
    model = open_model(random_models[name])
    assert len(model.tensors) == len(list(model.tensors))
    assert model.tokenizer is not None


def test_onnx_opens_in_onnxruntime_or_in_the_backend_that_is_named(folder: Path) -> None:
    ids = np.arange(20)[None]
    theirs, ours = open_any(folder), open_any(folder, "torch")
    assert type(theirs).__module__ == "runtime.backends.onnxruntime"
    expected = ours.logits(ids)
    assert np.abs(theirs.logits(ids) - expected).max() < 0.05 * np.abs(expected).max()


def test_messages_need_a_template(tiny: Checkpoint) -> None:
    engine = open_any(bundled(), "torch")
    with pytest.raises(EdgequantError, match="the chat template refused the messages"):
        loading.render(engine, [{"role": "user"}])
    engine.tokenizer = None
    with pytest.raises(EdgequantError, match="no tokenizer and so no chat template; use"):
        loading.render(engine, [{"role": "user", "content": "Hi"}])
