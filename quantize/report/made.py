"""How an artifact was made, as its own metadata tell: the command that makes it again."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export import CONTAINERS
from export.stated import json_or_bytes
from quantize.checkpoint import Checkpoint, bundled
from quantize.plan import EFFORTS, Plan, Target, window_length
from runtime.checkpoint import hub_id, model_name
from runtime.errors import InputError

PROGRAM = "quantize run"
FLAGS = {
    "method": "--method",
    "effort": "--effort",
    "rewrites": "--rewrite",
    "target_size": "--target-size",
    "target_bpw": "--target-bpw",
    "max_kl": "--max-kl",
    "rules": "--rule",
    "calibration": "--calibration",
    "calib_images": "--calib-images",
    "imatrix": "--imatrix",
    "rows": "--calib-rows",
    "length": "--calib-length",
    "seed": "--seed",
    "damp": "--damp",
    "allow_fallback": "--allow-fallback",
    "calibrate_all_experts": "--calibrate-all-experts",
}
"""Key of a recipe (`Plan.recipe`) -> its flag, in the order of a command."""
OTHERS = {"targets", "base", "adapters", "source_notes", "image_rows"}
"""Keys that no flag of FLAGS says."""


@dataclass(frozen=True)
class Made:
    """What an artifact says of its making."""

    command: str | None
    """None where it says nothing, or what no command of this version can ask for."""
    tuned: bool
    """Whether its norms and biases followed a gradient."""


def made(container: str, path: Path, checkpoint: Checkpoint) -> Made:
    """Of an artifact of `checkpoint`, whose metadata anybody may have written."""
    values = recipe_in(container, path) if container in CONTAINERS else {}
    effort = EFFORTS.get(str(values.get("effort")))
    return Made(command(values, checkpoint), effort is not None and effort.steps > 0)


def recipe_in(container: str, path: Path) -> dict[str, Any]:
    """The recipe (`Plan.recipe`) in an artifact's metadata; empty where there is none."""
    told = CONTAINERS[container].provenance(path)
    values = json_or_bytes(str(told.get("edgequant.plan") or told.get("plan") or "").encode())
    return values if isinstance(values, dict) else {}


def command(recipe: dict[str, Any], checkpoint: Checkpoint) -> str | None:
    """One line for a POSIX shell, with the flags that are not what they are by default.

    Local files are named as the recipe has them, without their folders.
    """
    targets, adapters = recipe.get("targets"), recipe.get("adapters", [])
    known = FLAGS.keys() | OTHERS
    if not (words(targets) and targets and isinstance(adapters, list) and recipe.keys() <= known):
        return None
    try:
        usual = usual_values(recipe, checkpoint)
    except InputError:
        return None
    line = [*PROGRAM.split(), *model_words(checkpoint)]
    for adapter in adapters:
        line += ["--adapter", str(adapter.get("name") if isinstance(adapter, dict) else adapter)]
    for target in targets:
        line += ["--to", target]
    for key, flag in FLAGS.items():
        if key in recipe and recipe[key] != usual.get(key):
            line += flag_words(key, flag, recipe[key])
    shown = shlex.join(line)
    return shown if shown.isprintable() else None


def usual_values(recipe: dict[str, Any], checkpoint: Checkpoint) -> dict[str, Any]:
    """The recipe without any flag but method and effort. Raises InputError for an unknown one."""
    method, effort = str(recipe.get("method")), str(recipe.get("effort"))
    usual = Plan((Target("", ""),), method=method, effort=effort).recipe()
    return usual | {
        "method": Plan.method,
        "effort": Plan.effort,
        "length": window_length(None, checkpoint.arch.context),
    }


def model_words(checkpoint: Checkpoint) -> list[str]:
    """The original as a command names it: nothing for the bundled one."""
    folder = checkpoint.folder.resolve()
    if folder == bundled():
        return []
    return [hub_id(folder) or model_name(checkpoint.folder)]


def flag_words(key: str, flag: str, value: Any) -> list[str]:
    """A flag with its value, as often as it has one."""
    if isinstance(value, bool):
        return [flag] if value else []
    if key == "rewrites" and not value:
        return [flag, "none"]
    values = value if isinstance(value, list) else [value]
    return [word for one in values for word in (flag, str(one))]


def words(value: Any) -> bool:
    """Whether a value is a list of texts."""
    return isinstance(value, list) and all(isinstance(word, str) for word in value)
