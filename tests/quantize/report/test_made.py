"""The command that makes an artifact again, from what it says of itself."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from quantize.checkpoint import Checkpoint, bundled, open_checkpoint
from quantize.cli.program import app
from quantize.plan import Plan
from quantize.plan.plan import window_length
from quantize.report.made import FLAGS, OTHERS, command, made
from quantize.run import pipeline
from tests.quantize.report.conftest import rounded, write_onnx

ASKED: list[dict[str, Any]] = [
    {"to": ["gguf:Q4_K_M"]},
    {"to": ["gguf:Q4_K_M", "onnx:int4"], "effort": "high", "rules": ["attn_(v|q)=Q6_K"]},
    {"to": ["gguf:Q4_K_M"], "method": "rtn", "rewrites": ["none"], "seed": 3, "damp": 0.02},
    {"to": ["gguf:Q4_K_M"], "method": "awq", "rows": 8, "length": 64, "allow_fallback": True},
    {"to": ["gguf:auto"], "target_size": 3000000, "calibration": "builtin:code"},
    {"to": ["gguf:auto"], "max_kl": 0.02, "calibrate_all_experts": True, "calib_images": "none"},
    {"to": ["gguf:auto"], "target_bpw": 4.5, "calibration": "my notes.txt"},
    {"to": ["gguf:Q4_0"], "imatrix": "some imatrix.gguf"},
]


def read_back(line: str, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """The plan of a command line, as the program reads it; nothing is run."""
    words = shlex.split(line)
    assert words[:2] == ["quantize", "run"]
    plans: list[Plan] = []
    monkeypatch.setattr(pipeline, "run", lambda plan, *_: plans.append(plan))
    monkeypatch.setattr(pipeline, "artifacts", lambda plan: [])
    result = CliRunner().invoke(app, words[1:])
    assert result.exit_code == 0, result.output
    return plans[0]


@pytest.mark.parametrize("flags", ASKED, ids=str)
def test_it_asks_for_the_same_recipe(
    flags: dict[str, Any], small: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan.from_flags(None, dict(flags))
    usual = window_length(plan.length, small.arch.context)
    recipe = replace(plan, length=usual).recipe()
    line = command(recipe, small)
    assert line is not None
    again = read_back(line, monkeypatch)
    assert replace(again, length=window_length(again.length, small.arch.context)).recipe() == recipe
    assert again.model == small.name
    assert recipe.keys() <= FLAGS.keys() | OTHERS


def test_every_key_of_a_recipe_has_its_flag(small: Checkpoint) -> None:
    keys = {key for flags in ASKED for key in Plan.from_flags(None, dict(flags)).recipe()}
    assert keys <= FLAGS.keys() | OTHERS
    assert FLAGS.keys() <= keys


def test_the_bundled_model_is_not_named_and_adapters_are(small: Checkpoint) -> None:
    recipe = Plan.from_flags(None, {"to": ["gguf:Q8_0"]}).recipe() | {"length": 512}
    assert command(recipe, open_checkpoint(bundled())) == "quantize run --to gguf:Q8_0"
    merged = recipe | {"base": "small", "adapters": [{"name": "my style", "sha256": "0"}]}
    line = command(merged | {"length": small.arch.context}, small)
    assert line == "quantize run small --adapter 'my style' --to gguf:Q8_0"


BASE = {"targets": ["gguf:Q8_0"], "method": "gptq", "effort": "medium"}


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        BASE | {"targets": "gguf:Q8_0"},
        BASE | {"targets": [1]},
        BASE | {"method": "another"},
        BASE | {"effort": None},
        BASE | {"adapters": "x"},
        BASE | {"of_a_later_version": 1},
        BASE | {"calibration": "a\nb"},
    ],
    ids=str,
)
def test_what_no_command_can_ask_for_has_none(recipe: dict[str, Any], small: Checkpoint) -> None:
    assert command(recipe, small) is None


def test_words_of_a_file_stay_words_of_the_command(small: Checkpoint) -> None:
    line = command(BASE | {"calibration": "$(date); `x` 'y'"}, small)
    assert line is not None
    assert shlex.split(line)[-2:] == ["--calibration", "$(date); `x` 'y'"]
    assert line.endswith("""--calibration '$(date); `x` '"'"'y'"'"''""")


def test_a_file_that_does_not_tell_has_none(small: Checkpoint, tmp_path: Path) -> None:
    folder = write_onnx(tmp_path / "plain-int4", small, rounded(small, "INT4_32"))
    assert made("onnx", folder, small).command is None
    assert made("a container of others", folder, small).command is None
