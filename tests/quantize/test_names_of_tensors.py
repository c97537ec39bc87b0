"""Checkpoints whose tensors have other names: wrappers are taken off, all else is a sentence."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from edgequant import UnsupportedError
from quantize.checkpoint import bundled, open_checkpoint
from tests.conftest import config
from tests.random_checkpoint import random_checkpoint

Rename = Callable[[str], str]


def in_layers(part: str) -> Rename:
    """A wrapper around every decoder layer."""
    return lambda name: name.replace("layers.0.", f"layers.0.{part}.").replace(
        "layers.1.", f"layers.1.{part}."
    )


WRAPPED: dict[str, tuple[Rename, str]] = {
    "peft": (lambda n: f"base_model.model.{n}", "the prefix base_model.model. was taken off"),
    "ddp": (lambda n: f"module.{n}", "module was taken out"),
    "deepspeed": (lambda n: f"_forward_module.{n}", "the prefix _forward_module. was taken off"),
    "lightning": (lambda n: f"model.{n}", "the prefix model. was taken off"),
    "trl": (lambda n: f"pretrained_model.{n}", "the prefix pretrained_model. was taken off"),
    "compiled": (lambda n: f"_orig_mod.{n}", "_orig_mod was taken out"),
    "compiled layers": (in_layers("_orig_mod"), "_orig_mod was taken out"),
    "fsdp": (
        lambda n: f"_fsdp_wrapped_module.{in_layers('_fsdp_wrapped_module')(n)}",
        "_fsdp_wrapped_module was taken out",
    ),
    "fsdp and checkpointing": (
        in_layers("_fsdp_wrapped_module._checkpoint_wrapped_module"),
        "_checkpoint_wrapped_module, _fsdp_wrapped_module was taken out",
    ),
    "compiled ddp": (lambda n: f"_orig_mod.module.{n}", "_orig_mod, module was taken out"),
    "no head": (lambda n: n.removeprefix("model."), "model. was put before"),
    "transformer": (
        lambda n: n.replace("model.", "transformer.", 1),
        "the prefix transformer. was taken off",
    ),
    "text of a vision model": (
        lambda n: n.replace("model.", "model.language_model.", 1),
        "the prefix model.language_model. was taken off",
    ),
    "older text of a vision model": (
        lambda n: f"language_model.{n}",
        "the prefix language_model. was taken off",
    ),
}


def renamed(folder: Path, rename: Rename, **more: torch.Tensor) -> Path:
    """A checkpoint in one file, its tensors under other names."""
    random_checkpoint(folder, config("qwen2-untied"), bundled())
    values = {n: t for shard in folder.glob("*.safetensors") for n, t in load_file(shard).items()}
    (folder / "model.safetensors.index.json").unlink()
    save_file({rename(n): t for n, t in values.items()} | more, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return renamed(tmp_path_factory.mktemp("plain") / "plain", lambda name: name)


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_wrappers_are_taken_off_and_told(wrapper: str, plain: Path, tmp_path: Path) -> None:
    rename, note = WRAPPED[wrapper]
    found = open_checkpoint(renamed(tmp_path / "model", rename))
    expected = open_checkpoint(plain)
    assert len(found.notes) == 1 and note in found.notes[0]
    assert set(found.tensors) == set(expected.tensors)
    for name in expected.tensors:
        assert np.array_equal(found.tensors[name].data, expected.tensors[name].data)


REFUSED: dict[str, tuple[Rename, dict[str, torch.Tensor], str]] = {
    "a part": (
        lambda n: f"language_model.{n}",
        {"vision_tower.patch.weight": torch.zeros(2)},
        "under the prefix 'language_model.' beside vision_tower.patch.weight",
    ),
    "two models": (
        lambda n: f"student.{n}",
        {"teacher.model.embed_tokens.weight": torch.zeros(2)},
        "under the prefix '(student|teacher).' beside (student|teacher)",
    ),
    "an adapter inside": (
        lambda n: n.replace("q_proj.weight", "q_proj.base_layer.weight"),
        {"model.layers.0.self_attn.q_proj.lora_A.default.weight": torch.zeros(2)},
        "a LoRA that is not merged .*q_proj.lora_A.default.weight.*merge_and_unload",
    ),
    "wrapped twice": (
        lambda n: f"module.{n}",
        {"model.norm.weight": torch.zeros(2)},
        "under the prefix 'module.' beside model.norm.weight",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_prefix_that_does_not_only_wrap_is_named(what: str, tmp_path: Path) -> None:
    rename, more, message = REFUSED[what]
    with pytest.raises(UnsupportedError, match=message) as caught:
        open_checkpoint(renamed(tmp_path / "model", rename, **more))
    assert "\n" not in str(caught.value)
