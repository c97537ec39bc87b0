"""GPTQ and AWQ folders of models that read images."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import edgequant
from quantize.checkpoint import open_checkpoint
from quantize.vision import open_vision
from runtime.errors import UnsupportedError
from tests.vision_models import QWEN2, QWEN25, vision_model

LOADED = ("model.language_model.{}", "language_model.model.{}")
"""What transformers and vLLM call a module of the language model, after "model."."""
TOWER = ("model.visual.blocks.0.attn.qkv", "visual.blocks.0.mlp.up_proj")
HELD = "layers.0.self_attn.q_proj"


def made(tmp_path: Path, config: dict[str, object], target: str, **more: object) -> Path:
    folder = vision_model(tmp_path / "x", config)
    done = edgequant.quantize(folder, target, tmp_path / "out", method="rtn", check=False, **more)
    return done.artifacts[0].path


@pytest.mark.parametrize("target", ["gptq:int4-32", "awq:int4-32"])
@pytest.mark.parametrize("config", [QWEN2, QWEN25])
def test_the_tower_goes_along_in_floats(
    config: dict[str, object], target: str, tmp_path: Path
) -> None:
    path = made(tmp_path, config, target)
    source, found = (open_checkpoint(place) for place in (tmp_path / "x", path))
    expected, seen = open_vision(source), open_vision(found)
    assert expected and seen
    assert (seen.tower, seen.ids, seen.preparation) == (
        expected.tower,
        expected.ids,
        expected.preparation,
    )
    for name, tensor in expected.tensors.items():
        stored = seen.tensors[name]
        assert stored.shape == tensor.shape
        # bfloat16 of few binary places: float16 holds all but the smallest
        np.testing.assert_allclose(stored.decode(), tensor.decode(), rtol=0, atol=2**-24)
    assert found.is_packed


def test_readers_leave_the_tower_and_floats_alone(tmp_path: Path) -> None:
    rules = ["blk.0.attn_q=F16"]
    path = made(tmp_path, QWEN25, "gptq:int4-32", rules=rules)
    dynamic = json.loads((path / "config.json").read_text())["quantization_config"]["dynamic"]
    floats = [pattern[2:] for pattern in dynamic if pattern.startswith("-:")]

    def left(module: str) -> bool:
        return any(re.match(pattern, module) for pattern in floats)

    assert all(map(left, TOWER))
    for loaded in LOADED:
        assert left(loaded.format(HELD))
        assert not left(loaded.format("layers.1.self_attn.q_proj"))
        assert not left(loaded.format("layers.0.self_attn.k_proj"))


def test_awq_names_what_stays_in_floats(tmp_path: Path) -> None:
    path = made(tmp_path, QWEN25, "awq:int4-32", rules=["blk.0.attn_q=F16"])
    config = json.loads((path / "config.json").read_text())["quantization_config"]
    assert config["modules_to_not_convert"] == ["visual", "model.visual", HELD]


def test_a_tower_is_not_packed(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="take the vision tower in floats"):
        made(tmp_path, QWEN25, "gptq:int4-32", rules=["visual=INT4_32_SYM_F16"])
