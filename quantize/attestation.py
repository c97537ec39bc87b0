"""Whether an artifact is what its recipe makes of the original: `quantize attest`."""

import filecmp
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from export import CONTAINERS
from quantize.loading import files_of, open_model
from quantize.plan import Plan
from quantize.progress import Progress
from quantize.report.examine import first
from quantize.report.made import FLAGS, recipe_in, words
from quantize.run.pipeline import artifacts, run
from quantize.verification import lines
from runtime.containers import recognise
from runtime.errors import InputError


def attest(
    path: Path, against: str | None, given: Mapping[str, Any], progress: Progress
) -> dict[str, Any]:
    """Make an artifact again by the recipe in it, and what differs, as JSON values.

    `against` is the original, None = the bundled one; `given` has the paths of what a recipe names
    without its folder: `calibration`, `calib_images`, `imatrix`, `adapter`. Raises EdgequantError
    for a file without a recipe, and as `run` does.
    """
    kind = recognise(path).name
    recipe = recipe_in(kind, path) if kind in CONTAINERS else {}
    targets = recipe.get("targets")
    if not words(targets) or not targets:
        raise InputError(
            f"{path} holds no recipe of `quantize run`, so it cannot be made again; `quantize "
            "check` measures it."
        )
    with TemporaryDirectory() as folder:
        plan = Plan.from_flags(None, flags_of(recipe, against, given) | {"output": folder})
        same_kind = [target.label for target in plan.targets if target.container == kind]
        if not same_kind:
            raise InputError(
                f"the recipe in {path} makes no {kind}; it is not the one it was made by."
            )
        run(plan, progress)
        made = [Path(one["path"]) for one in artifacts(plan) if one["target"] in same_kind]
        found = [differences(path, one) for one in made]
    # a run may make several of a container: this is the one that is most like it
    return {"file": str(path), "container": kind, "differences": min(found, key=len)}


def flags_of(
    recipe: Mapping[str, Any], against: str | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """What `Plan.from_flags` takes to make it again."""
    known = {key: recipe[key] for key in FLAGS if key in recipe}
    flags = known | {"to": recipe["targets"], "check": False}
    return flags | dict(given) | ({} if against is None else {"model": against})


def differences(path: Path, made: Path) -> list[str]:
    """A sentence for each tensor and each file that is not as it was made."""
    pairs = paired(path, made)
    unlike = [
        name
        for name, (left, right) in pairs.items()
        if left is None or right is None or not filecmp.cmp(left, right, shallow=False)
    ]
    if not unlike:
        return []
    left, right = open_model(path).tensors, open_model(made).tensors
    told = []
    for name in sorted(left.keys() | right.keys()):
        if name not in left or name not in right:
            told.append(f"{name} would {'be there' if name in right else 'not be there'}")
        elif (one := left[name]).qtype.name != (other := right[name]).qtype.name:
            told.append(f"{name} is {one.qtype.name} and would be {other.qtype.name}")
        elif one.shape != other.shape:
            told.append(f"{name} has the shape {one.shape} and would have {other.shape}")
        elif count := np.count_nonzero(one.data != other.data):
            told.append(f"{name} differs in {count:,} of {one.data.size:,} bytes")
    return [*first(told, "tensors differ"), *(f"{name} is another file" for name in unlike)]


def paired(path: Path, made: Path) -> dict[str, tuple[Path | None, Path | None]]:
    """The files of both by their name within; None where one is missing."""
    sides = [
        {str(file.relative_to(side)) if side.is_dir() else "": file for file in files_of(side)}
        for side in (path, made)
    ]
    names = sorted(sides[0].keys() | sides[1].keys())
    return {name or path.name: (sides[0].get(name), sides[1].get(name)) for name in names}


def render(result: Mapping[str, Any]) -> str:
    """A line that it is the same, or one for each difference."""
    return lines(result["file"], result["differences"], "its recipe makes the same bytes again")
