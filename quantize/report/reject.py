"""What becomes of an artifact that failed a gate: it is called NAME.rejected."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from export import CONTAINERS
from export.files import remove_parts
from quantize.report.report import REJECTED
from quantize.report.score_report import AnyReport
from runtime.checkpoint import hub_id
from runtime.containers import recognise
from runtime.errors import InputError


def reject_failed(report: AnyReport, paths: list[Path]) -> AnyReport:
    """Rename the artifacts that failed to NAME.rejected; the report names them as they are left.

    What cannot be renamed keeps its name, and a note says why: figures are not lost by it.
    """
    kept: Any = report  # what both kinds have
    results = []
    for result, path in zip(kept.results, paths, strict=True):
        if result.rejected:
            try:
                name, notes = reject(path).name, reject_companion(path)
            except (OSError, InputError) as error:
                name, notes = None, (f"{path.name} keeps its name, though it failed: {error}",)
            result = replace(result, file=name or result.file, notes=(*result.notes, *notes))
        results.append(result)
    return cast("AnyReport", replace(kept, results=tuple(results)))


def reject(path: Path) -> Path:
    """NAME.rejected, which an artifact is called from now on, in place of what was refused before.

    Raises InputError for a checkpoint, in a hub's cache, and where something else has that name.
    """
    if recognise(path).name not in CONTAINERS:
        raise InputError("it is no artifact, but a checkpoint")
    if hub_id(Path(os.path.abspath(path))):
        raise InputError("it lies in a hub's cache, whose names are the hub's")
    target = path.with_name(path.name + REJECTED)
    if os.path.lexists(target):
        known = any(container.reader.recognises(target) for container in CONTAINERS.values())
        empty = target.is_dir() and not any(target.iterdir())
        if not known and not empty:
            raise InputError(f"{target} is something else")
    remove_parts(target)  # of an attempt that was killed
    if target.is_dir() and not target.is_symlink():
        # one that a kill left half removed would be something else
        os.replace(target, target.with_name(f".{target.name}.refused.old"))
    try:
        os.replace(path, target)
    finally:
        remove_parts(target)
    return target


def reject_companion(path: Path) -> tuple[str, ...]:
    """Rename what was written beside an artifact that was called `path`; why not, in a sentence."""
    target = path.with_name(path.name + REJECTED)
    companion = CONTAINERS[recognise(target).name].companion
    if companion is None or not companion.is_ours(beside := companion.path(path)):
        return ()
    try:
        os.replace(beside, beside.with_name(beside.name + REJECTED))
    except OSError as error:  # the artifact has its new name all the same
        return (f"{beside.name} keeps its name: {error}",)
    return ()
