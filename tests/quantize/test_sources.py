"""What people give as a source that is no checkpoint: named, with the way out, before any work."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import edgequant
from edgequant import CorruptFileError, EdgequantError, InputError
from quantize.checkpoint import bundled, open_checkpoint
from tests.conftest import config
from tests.random_checkpoint import random_checkpoint

OTHER_FORMATS = {
    "model-Q4_0.gguf": r"holds GGUF, .* \(model-Q4_0.gguf\); .* or name the file itself",
    "model.onnx": r"holds ONNX, .* \(model.onnx\); give the folder of the checkpoint",
    "onnx/model_q4.onnx": r"holds ONNX, .* \(onnx/model_q4.onnx\)",
    "openvino_model.xml": "holds OpenVINO",
    "rank0.engine": "holds TensorRT",
    "model.mlpackage": "holds Core ML",
    "model.tflite": "holds LiteRT",
    "mlc-chat-config.json": "holds MLC",
    "model_index.json": "holds a diffusion pipeline",
    "consolidated.safetensors": "layout of Meta's or Mistral's own releases .*config.json",
    "consolidated.00.pth": "layout of Meta's or Mistral's own releases .*config.json",
    "pytorch_model.bin": "holds pickled weights, .*convert them to safetensors",
    "pytorch_model-00001-of-00002.bin": "holds pickled weights",
    "last.ckpt": "holds pickled weights",
    "tf_model.h5": "holds weights of TensorFlow or Flax",
    "model.zip": "holds an archive .*unpack it",
}


@pytest.mark.parametrize("with_config", [False, True])
@pytest.mark.parametrize("name", OTHER_FORMATS)
def test_a_folder_of_another_format_is_named(name: str, with_config: bool, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    if with_config:
        shutil.copy(bundled() / "config.json", tmp_path)
    with pytest.raises(EdgequantError, match=OTHER_FORMATS[name]) as caught:
        edgequant.plan(tmp_path, to="gguf:Q8_0")
    assert "\n" not in str(caught.value)


FILES = {
    "model-Q4_0.gguf": "is not a GGUF file: it does not start with 'GGUF'",
    "model.onnx": "is ONNX, which is converted already",
    "pytorch_model.bin": "is pickled weights",
    "consolidated.00.pth": "is the layout of Meta's or Mistral's own releases",
    "consolidated.safetensors": "is the layout of Meta's or Mistral's own releases",
    "epoch.ckpt": "is pickled weights",
    "model.zip": "is an archive; unpack it",
    "model.safetensors": "holds the weights alone; give a folder that also has config.json",
    "notes.txt": "is a file; give the folder that holds config.json",
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(EdgequantError, match=FILES[name]):
        edgequant.plan(tmp_path / name, to="gguf:Q8_0")


def test_the_weights_of_a_folder_name_the_folder() -> None:
    with pytest.raises(InputError, match=f"holds the weights alone; give their folder {bundled()}"):
        edgequant.plan(bundled() / "model.safetensors", to="gguf:Q8_0")


def test_folders_around_a_checkpoint_name_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is empty; give the folder of a Hugging Face checkpoint"):
        open_checkpoint(tmp_path)
    for step in ("500", "1000", "1500"):
        (tmp_path / f"checkpoint-{step}").mkdir()
        shutil.copy(bundled() / "config.json", tmp_path / f"checkpoint-{step}")
    with pytest.raises(InputError, match="but .*checkpoint-1000, .* and 1 more have; give that"):
        open_checkpoint(tmp_path)
    cached = tmp_path / "models--org--name"
    (cached / "snapshots/0123").mkdir(parents=True)
    shutil.copy(bundled() / "config.json", cached / "snapshots/0123")
    with pytest.raises(InputError, match="but .*snapshots/0123 has; give that folder"):
        open_checkpoint(cached)


def test_shards_without_their_index_are_named(tmp_path: Path) -> None:
    shutil.copy(bundled() / "config.json", tmp_path)
    (tmp_path / "training_args.bin").write_bytes(b"x")
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"x")
    with pytest.raises(CorruptFileError, match="no model.safetensors.index.json for model-00001"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        ({"quantization": {"group_size": 64, "bits": 4}}, "MLX, 4 bits"),
        ({"quantization_config": {"quant_method": "aqlm", "bits": 2}}, "aqlm, 2 bits"),
        (
            {"quantization_config": {"quant_method": "quanto", "load_in_8bit": True}},
            "quanto, 8 bits",
        ),
    ],
)
def test_a_quantized_checkpoint_names_its_method(
    facts: dict[str, Any], named: str, tmp_path: Path
) -> None:
    settings = json.loads((bundled() / "config.json").read_text()) | facts
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(EdgequantError, match=rf"is already quantized \({named}\)"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        ({"model_type": "bert"}, "unknown architecture 'bert'"),
        ({"architectures": ["T5Model"]}, r"no model_type and names \['T5Model'\]"),
        ({"_class_name": "UNet2DConditionModel"}, "names UNet2DConditionModel"),
    ],
)
def test_another_architecture_is_named_before_its_files(
    facts: dict[str, Any], named: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(facts))
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(EdgequantError, match=f"{named}.*supported: .*qwen2"):
        open_checkpoint(tmp_path)


def test_what_lies_beside_a_checkpoint_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    random_checkpoint(folder, config("qwen2-tied"), bundled())
    assert open_checkpoint(folder).notes == ()
    for name in ("a.gguf", "b.gguf", "c.gguf", "model.onnx", "training_args.bin"):
        (folder / name).write_bytes(b"x")
    assert open_checkpoint(folder).notes == (
        "the checkpoint was read, not a.gguf, b.gguf and 1 more beside it",
        "the checkpoint was read, not model.onnx beside it",
    )


def test_a_hub_id_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = r"could not be downloaded and is not cached \([^.]*\); check the name"
    with pytest.raises(InputError, match=message) as caught:
        open_checkpoint("nobody/no-such-model")
    assert "\n" not in str(caught.value)


MISSING = {
    "calibration": ("none.txt", "There is no calibration text none.txt"),
    "eval_data": ("none.jsonl", "There is no calibration text none.jsonl"),
    "imatrix": ("none.gguf", "there is no imatrix none.gguf"),
    "baseline": ("none.json", "report none.json does not exist"),
    "plan": ("none.toml", "plan none.toml cannot be read"),
    "adapter": ("./none", "./none does not exist"),
}


@pytest.mark.parametrize("call", [edgequant.plan, edgequant.quantize])
@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize("option", MISSING)
def test_a_file_that_is_not_there_is_told_before_work(
    option: str, check: bool, call: Any, tmp_path: Path
) -> None:
    value, message = MISSING[option]
    if option == "baseline" and not check:
        message = "check=False measures nothing, .* against baseline"
    settings = {option: value, "check": check}
    with pytest.raises(EdgequantError, match=message):
        call(to="gguf:Q8_0", output=tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["calibration", "eval_data"])
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("builtin:poems", "builtin has no domain 'poems'"),
        ("README", "There is no calibration text README"),
        (__file__, "is not a file ending in .txt"),
    ],
)
def test_a_text_that_cannot_be_is_told_by_plan(option: str, spec: str, message: str) -> None:
    with pytest.raises(EdgequantError, match=message):
        edgequant.plan(to="gguf:Q8_0", **{option: spec})  # type: ignore[arg-type]


def test_plan_tells_what_a_run_could_not_be_judged_by(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("A text of a few words.")
    with pytest.raises(EdgequantError, match="short.txt has no text to use"):
        edgequant.plan(to="gguf:Q8_0", eval_data=str(tmp_path / "short.txt"))
    with pytest.raises(EdgequantError, match="eval_length must be between 16"):
        edgequant.plan(to="gguf:Q8_0", eval_length=10**6)
    edgequant.plan(to="gguf:Q8_0", eval_data=str(tmp_path / "short.txt"), check=False)
