"""The onnxruntime engine: foreign folders it can run, and one sentence for those it cannot."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edgequant
from export import CONTAINERS
from quantize.checkpoint import Checkpoint
from runtime.engine import open_engine
from runtime.errors import EdgequantError
from tests.small_models import assert_near, kl, rounded
from tests.vision_models import QWEN2, vision_model

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def written(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engine") / "x"
    CONTAINERS["onnx"].write(path, tiny.arch, rounded(tiny, "INT4_32"), tiny.folder, {})
    return path


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    """A folder to damage."""
    return Path(shutil.copytree(written, tmp_path / "copy"))


def change_settings(folder: Path, **changes: Any) -> None:
    """Set keys of the "model" of genai_config.json; None removes one."""
    path = folder / "genai_config.json"
    config = json.loads(path.read_text())
    merged = config["model"] | changes
    config["model"] = {key: value for key, value in merged.items() if value is not None}
    path.write_text(json.dumps(config))


def test_accuracy_level_of_the_file_can_be_overridden(written: Path) -> None:
    ids = np.arange(40).reshape(2, 20)
    shipped, four, zero = (
        open_engine(written, "onnxruntime", threads=2, accuracy_level=level).logits(ids)
        for level in (None, 4, 0)
    )
    assert 0 < kl(zero, shipped) < 1e-3
    assert kl(shipped, four) < 0.1 * kl(zero, shipped)


def test_last_gives_the_logits_of_the_last_token(written: Path) -> None:
    engine = open_engine(written, "onnxruntime", threads=2, accuracy_level=0)
    ids = np.arange(40).reshape(2, 20)
    assert_near(engine.logits(ids, last=True), engine.logits(ids)[:, -1:])


def test_a_full_cache_is_told(written: Path) -> None:
    engine = open_engine(written, "onnxruntime", threads=2)
    cache = engine.new_cache(1, 10)
    engine.logits(np.arange(8)[None], cache)
    with pytest.raises(EdgequantError, match="11 tokens do not fit in 10; shorten the text or ask"):
        engine.logits(np.arange(3)[None], cache)
    assert cache.length == 8


def test_a_context_shorter_than_the_models_is_kept_to(copy: Path) -> None:
    change_settings(copy, context_length=16)
    engine = open_engine(copy, "onnxruntime", threads=2)
    with pytest.raises(EdgequantError, match="17 tokens do not fit in 16"):
        engine.logits(np.zeros((1, 17), np.int64))


def test_a_folder_without_config_and_tokenizer_is_run_from_its_genai_config(copy, written) -> None:
    ids = np.arange(20)[None]
    expected = open_engine(written, "onnxruntime", threads=2, accuracy_level=0).logits(ids)
    (copy / "config.json").unlink()
    (copy / "tokenizer.json").unlink()
    engine = open_engine(copy, "onnxruntime", threads=2, accuracy_level=0)
    assert engine.tokenizer is None
    cache = engine.new_cache(1, 20)
    parts = [engine.logits(ids[:, :12], cache), engine.logits(ids[:, 12:], cache)]
    assert_near(np.concatenate(parts, 1), expected)
    assert engine.arch.vocab == expected.shape[2]


def test_other_names_of_inputs_and_outputs_are_followed(copy: Path, written: Path) -> None:
    model = onnx.load(str(copy / "model.onnx"), load_external_data=False)
    for node in model.graph.node:
        node.input[:] = ["tokens" if name == "input_ids" else name for name in node.input]
        node.output[:] = ["scores" if name == "logits" else name for name in node.output]
    next(v for v in model.graph.input if v.name == "input_ids").name = "tokens"
    next(v for v in model.graph.output if v.name == "logits").name = "scores"
    (copy / "other.onnx").write_bytes(model.SerializeToString())
    decoder = json.loads((copy / "genai_config.json").read_text())["model"]["decoder"]
    decoder["filename"] = "other.onnx"
    decoder["inputs"]["input_ids"], decoder["outputs"]["logits"] = "tokens", "scores"
    change_settings(copy, decoder=decoder)
    ids = np.arange(20)[None]
    expected, found = (
        open_engine(path, "onnxruntime", threads=2, accuracy_level=0).logits(ids)
        for path in (written, copy)
    )
    assert_near(found, expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("genai_config.json", "has no genai_config.json; give a folder that has one"),
        ("model.onnx", "model.onnx is missing; copy it into the folder again"),
        ("model.onnx.data", "onnxruntime cannot load .*; copy it again or update onnxruntime"),
    ],
)
def test_a_missing_file_is_named(copy: Path, name: str, message: str) -> None:
    (copy / name).unlink()
    with pytest.raises(EdgequantError, match=message):
        open_engine(copy, "onnxruntime")


@pytest.mark.parametrize("level", [None, 0])
@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data"])
def test_a_cut_file_is_refused_in_one_line(copy: Path, name: str, level: int | None) -> None:
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(EdgequantError, match="onnxruntime cannot load .*; copy it again") as caught:
        open_engine(copy, "onnxruntime", accuracy_level=level)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["decoder", "context_length"])
def test_settings_of_another_kind_of_model_are_refused(copy: Path, key: str) -> None:
    change_settings(copy, **{key: None})
    with pytest.raises(EdgequantError, match=f"genai_config.json has no '{key}'; only text models"):
        open_engine(copy, "onnxruntime", threads=2)


def test_a_missing_onnxruntime_is_named(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EdgequantError, match="needs onnxruntime; pip install onnxruntime"):
        open_engine(written, "onnxruntime")


def test_texts_end_where_genai_config_ends_them(copy: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        (copy / name).unlink()
    for said, ends in (([4095, 4093], (4095, 4093)), (4094, (4094,))):
        change_settings(copy, eos_token_id=said)
        tokenizer = open_engine(copy, "onnxruntime").tokenizer
        assert tokenizer is not None and tokenizer.eos == ends


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"eos_token_id": "4093"}, "model.eos_token_id"),
        ({"context_length": 0}, "model.context_length"),
        ({"decoder": []}, "model.decoder"),
        ({"decoder": {"num_hidden_layers": None}}, "model.decoder.num_hidden_layers"),
        (
            {"decoder": {"inputs": {"past_key_names": "past"}}},
            "model.decoder.inputs.past_key_names",
        ),
    ],
)
def test_a_genai_config_of_another_kind_names_the_field(
    change: dict[str, Any], place: str, copy: Path
) -> None:
    change_settings(copy, **change)
    with pytest.raises(EdgequantError, match=f"genai_config.json: {place} is not what it must be"):
        open_engine(copy, "onnxruntime")


@pytest.mark.parametrize("part", ["embedding", "vision"])
def test_parts_of_a_model_that_reads_images_are_told(part: str, tmp_path: Path) -> None:
    folder = vision_model(tmp_path / "x", QWEN2)
    done = edgequant.quantize(folder, "onnx:fp32", tmp_path / "out", method="rtn", check=False)
    path = done.artifacts[0].path
    settings = json.loads((path / "genai_config.json").read_text())["model"]
    for key in ("filename", "inputs", "outputs"):
        change_settings(path, **{part: {k: v for k, v in settings[part].items() if k != key}})
        with pytest.raises(EdgequantError, match=f"genai_config.json has no '{key}'"):
            open_engine(path, "onnxruntime")
    change_settings(path, **{part: 5})
    with pytest.raises(EdgequantError, match=rf"model\.{part} is not what it must be"):
        open_engine(path, "onnxruntime")
    change_settings(path, **{part: settings[part]})
    (path / settings[part]["filename"]).unlink()
    with pytest.raises(EdgequantError, match=f"{part}.onnx is missing; copy it into the folder"):
        engine = open_engine(path, "onnxruntime")
        engine.vision.tower  # type: ignore[attr-defined]  # noqa: B018
