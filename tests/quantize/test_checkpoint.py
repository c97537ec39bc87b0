"""Opening checkpoints: every kind of damage is one sentence with the way out."""

import json
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from quantize import checkpoint
from quantize.checkpoint import bundled, check_finite, open_checkpoint
from runtime.checkpoint import INDEX
from runtime.errors import EdgequantError
from tests.conftest import CONFIGS, config
from tests.quantize.layers import layer_of
from tests.random_checkpoint import random_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sharded random checkpoint that a test may damage."""
    random_checkpoint(tmp_path / "model", config("qwen2-untied"), bundled())
    return tmp_path / "model"


@pytest.mark.parametrize("name", CONFIGS)
def test_every_tensor_of_the_config_is_read_with_its_shape(
    name: str, random_models: dict[str, Path]
) -> None:
    checkpoint = open_checkpoint(random_models[name])
    assert len(checkpoint.tensors) == len(checkpoint.tensors.shapes)
    for key, shape in checkpoint.tensors.shapes.items():
        assert checkpoint.tensors[key].decode().shape == shape


def test_bf16_weights_are_read_bit_for_bit(tiny: Any) -> None:
    direct = load_file(bundled() / "model.safetensors")["model.layers.2.mlp.down_proj.weight"]
    assert np.array_equal(tiny.tensors["blk.2.ffn_down.weight"].decode(), direct.float().numpy())


def test_the_fingerprint_follows_the_content_and_not_the_place(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    first = open_checkpoint(folder).fingerprint()
    assert open_checkpoint(tmp_path / "copy").fingerprint() == first
    random_checkpoint(tmp_path / "copy", config("qwen2-untied"), bundled(), seed=7)
    assert open_checkpoint(tmp_path / "copy").fingerprint() != first


def edit_config(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text()) | changes
        kept = {k: v for k, v in values.items() if v is not ...}
        (folder / "config.json").write_text(json.dumps(kept))

    return edit


def cut_shard(folder: Path) -> None:
    shard = folder / "model-1.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])


def replace_tensor(folder: Path, change: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
    values = load_file(folder / "model-0.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    changed = change(values.pop(name))
    if changed is not None:
        values[name] = changed
    save_file(values, folder / "model-0.safetensors")


def only_pickle(folder: Path) -> None:
    for path in [*folder.glob("*.safetensors"), folder / INDEX]:
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")


def add_tensor(name: str) -> Callable[[Path], None]:
    """A damage: a tensor more."""

    def add(folder: Path) -> None:
        save_file({name: torch.zeros(2)}, folder / "extra.safetensors")
        index = json.loads((folder / INDEX).read_text())
        index["weight_map"][name] = "extra.safetensors"
        (folder / INDEX).write_text(json.dumps(index))

    return add


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing shard": (
        lambda f: (f / "model-1.safetensors").unlink(),
        r"is missing 1 of 5 shards .*download them again",
    ),
    "cut shard": (cut_shard, "model-1.safetensors is cut short or damaged"),
    "no weights": (lambda f: (f / INDEX).unlink(), "holds no model.safetensors"),
    "pickle": (only_pickle, r"pickled weights.*convert them to safetensors"),
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer.json"),
    "broken tokenizer": (
        lambda f: (f / "tokenizer.json").write_text("{}"),
        "tokenizer.json cannot be read",
    ),
    "unknown architecture": (
        edit_config(model_type="mamba"),
        "unknown architecture 'mamba'.*supported: .*qwen2",
    ),
    "missing key": (edit_config(rms_norm_eps=...), "no 'rms_norm_eps'"),
    "wrong width": (edit_config(intermediate_size=128), r"has shape .* config.json implies"),
    "too many layers": (edit_config(num_hidden_layers=9), "no tensor model.layers.2"),
    "too few layers": (edit_config(num_hidden_layers=1), "tensors this architecture does not know"),
    "unknown tensor": (add_tensor("visual.patch"), r"does not know \(visual.patch\)"),
    "a second time": (
        add_tensor("language_model.model.norm.weight"),
        r"holds 1 tensors twice, also under a prefix \(language_model.model.norm.weight\)",
    ),
    "again": (
        add_tensor("model.language_model.layers.0.mlp.up_proj.weight"),
        "holds 1 tensors twice",
    ),
    "sliding window": (edit_config(layer_types=["sliding_attention"]), "layer_types for 1 layers"),
    "activation": (edit_config(hidden_act="gelu"), "only 'silu'"),
    "rope": (edit_config(rope_scaling={"type": "longrope"}), "rope scaling 'longrope'"),
    "quantized": (
        lambda f: (
            edit_config(quantization_config={"bits": 4})(f),
            replace_tensor(f, lambda t: t.to(torch.int8)),
        ),
        "already quantized",
    ),
    "integer weights": (
        lambda f: replace_tensor(f, lambda t: t.to(torch.int8)),
        "is I8, not F32, F16 or BF16",
    ),
    "index without a table": (
        lambda f: (f / INDEX).write_text("{}"),
        "index.json: the file is not what it must be .object missing required field `weight_map`",
    ),
    "index of other things": (
        lambda f: (f / INDEX).write_text('{"weight_map": {"lm_head.weight": 1}}'),
        "index.json: weight_map.* is not what it must be .expected `str`, got `int`",
    ),
    "index promises more": (
        lambda f: replace_tensor(f, lambda t: None),
        "does not hold model.layers.0.mlp.up_proj",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_one_sentence_with_the_way_out(what: str, folder: Path) -> None:
    damage, message = DAMAGE[what]
    damage(folder)
    with pytest.raises(EdgequantError, match=message) as caught:
        open_checkpoint(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_inf_weights_are_counted_and_named(bad: float, folder: Path) -> None:
    def spoil(values: torch.Tensor) -> torch.Tensor:
        values[3, :5] = bad
        return values

    replace_tensor(folder, spoil)
    with pytest.raises(
        EdgequantError, match="blk.0.ffn_up.weight holds 5 NaN or infinite values of"
    ):
        layer_of(open_checkpoint(folder))


def test_huge_finite_weights_are_not_taken_for_infinite(folder: Path) -> None:
    replace_tensor(folder, lambda t: torch.full_like(t, 3e38))
    checkpoint = open_checkpoint(folder)
    assert layer_of(checkpoint)
    tensor = checkpoint.tensors["blk.0.ffn_up.weight"]
    check_finite(tensor, tensor.decode())  # numpy warns of the overflow of their sum


def test_a_file_is_refused(folder: Path) -> None:
    with pytest.raises(EdgequantError, match="is a file; give the folder"):
        open_checkpoint(folder / "config.json")


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        EdgequantError, match="does not exist; give a checkpoint folder, a GGUF file or a hub id"
    ):
        open_checkpoint(tmp_path / "nothing")


def test_a_hub_id_is_downloaded_and_never_its_pickles(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}

    def snapshot(name: str, allow_patterns: list[str]) -> str:
        asked[name] = allow_patterns
        return str(folder)

    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    assert open_checkpoint("someone/model").folder == folder
    assert not any(".bin" in pattern for pattern in asked["someone/model"])


def test_an_unreachable_hub_is_said_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EdgequantError, match="could not be downloaded and is not cached"):
        open_checkpoint("someone/model")


def test_an_installed_package_says_that_it_has_no_bundled_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(checkpoint, "bundled", lambda: tmp_path / "models" / "tiny-qwen2.5")
    with pytest.raises(EdgequantError, match="comes with the repository, not with an installed"):
        open_checkpoint(None)


def test_a_missing_hub_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.ModuleType("empty"))
    with pytest.raises(EdgequantError, match=r"pip install 'edgequant\[hub\]'"):
        open_checkpoint("someone/model")


def test_an_adapter_that_is_not_there_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(EdgequantError, match="nofolder does not exist; give --adapter a folder"):
        open_checkpoint(bundled(), ["nofolder"])
