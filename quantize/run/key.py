"""What decides the bytes of a run. Unfinished work goes on only where all of it is as it was."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from quantize.plan import Plan
from quantize.plan.plan import IMAGE_WORDS
from quantize.plan.spelling import flag

Key = Mapping[str, Mapping[str, str]]
"""Kind -> name -> value. Kinds:

settings   of the plan, as JSON
files      that are read, a hash of each
model      what names the checkpoint as a whole
program    what names its code
machine    what may change the last bit of a sum
"""
SOFT = "machine"
"""The kind of which a change is told, and work goes on: a run may move to another machine."""
LISTED = 3
"""Differences that are told of a kind."""


def key_of(plan: Plan, fingerprint: str, version: str, imatrix_sha256: str = "") -> Key:
    """The key of a plan, without the files of the model (inputs.py).

    `imatrix_sha256` is that of the imatrix file, "" without one.
    """
    recipe = plan.recipe()
    settings = {"to": recipe.pop("targets"), **recipe}
    settings["device"] = plan.device  # a GPU adds in another order
    # files of the model are called by their names alone: these may have the same ones
    files, images = {}, Path(plan.calib_images)
    if plan.calibration_file and plan.calibration_file.is_file():
        files[f"the text {plan.calibration_file.name}"] = sha256_of(plan.calibration_file)
    if plan.imatrix:
        files[f"the imatrix {plan.imatrix.name}"] = imatrix_sha256
    if plan.calib_images not in IMAGE_WORDS:
        paths = sorted(path for path in images.iterdir() if path.is_file())
        files |= {f"the image or caption {path.name}": sha256_of(path) for path in paths}
    return {
        "settings": {name: json.dumps(value) for name, value in settings.items()},
        "files": files,
        "model": {"fingerprint": fingerprint},
        "program": {"code": version},
    }


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def differs(old: Key, new: Key) -> bool:
    """Whether work done under one key is of no use under the other."""
    return any(_changed(old, new, kind) for kind in {*old, *new} - {SOFT})


def told(old: Key, new: Key) -> str:
    """What makes them differ, as the subject and verb of a sentence."""
    found = [*_listed(_settings(old, new)), *_listed(_files(old, new))]
    if not found and _changed(old, new, "model"):
        found.append("the checkpoint is another one")
    if _changed(old, new, "program"):
        found.append("the program is another one")
    return ", ".join(found)


def moved(old: Key, new: Key) -> str:
    """A sentence about a machine that is another one, "" where it is the same."""
    changes = [_change(old, new, SOFT, name) for name in _changed(old, new, SOFT)]
    lost = "the last bits of its sums may be neither those of the one nor of the other"
    return f"{', '.join(changes)}: {lost}" if changes else ""


def _changed(old: Key, new: Key, kind: str) -> list[str]:
    """Names within a kind whose values differ."""
    before, after = old.get(kind, {}), new.get(kind, {})
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]


def _settings(old: Key, new: Key) -> Iterator[str]:
    for name in _changed(old, new, "settings"):
        yield _change(old, new, "settings", name).replace(name, flag(name), 1)


def _files(old: Key, new: Key) -> Iterator[str]:
    for name in _changed(old, new, "files"):
        if name not in new.get("files", {}):
            yield f"{name} is no longer read"
        else:
            yield f"{name} {'changed' if name in old.get('files', {}) else 'is new'}"


def _change(old: Key, new: Key, kind: str, name: str) -> str:
    was, now = (key.get(kind, {}).get(name, "not given") for key in (old, new))
    return f"{name} was {was} and is {now}"


def _listed(found: Iterator[str]) -> list[str]:
    """The first few, and how many more there are."""
    every = list(found)
    more = [f"{len(every) - LISTED} more"] if len(every) > LISTED else []
    return [*every[:LISTED], *more]
