"""The main job: open, plan, calibrate and round, write, run what was written, judge it."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import calib_data
import export
import quantize
import runtime
from quantize.calibrate import Progress, silent
from quantize.checkpoint import Checkpoint, open_checkpoint
from quantize.passes import artifact_tensors, quantize_model
from quantize.plan import Assignment, Plan, assign, check_rules
from quantize.report.judge import check_settings, judge
from quantize.report.report import Report
from quantize.resume import Work, work_folder
from runtime.errors import EdgequantError

Say = Callable[[str], None]


def run(plan: Plan, progress: Progress = silent, say: Say = lambda line: None) -> Report | None:
    """Make every artifact of a plan and, unless plan.check is off, prove it against the original.

    Raises EdgequantError before any work for bad input; killed at any moment, the same call goes on after the
    last finished stage and writes the same bytes. Gates that fail are in the report.
    """
    checkpoint = open_checkpoint(plan.model)
    if plan.check:
        check_settings(plan, checkpoint)
    check_rules(plan, checkpoint.arch)
    assignments = [assign(target, checkpoint.arch, plan.rules) for target in plan.targets]
    for assignment in assignments:
        for line in assignment.fallbacks:
            say(f"{assignment.target.label}: {line}")
    with work_folder(plan.output, plan.key(checkpoint.fingerprint(), code_version())) as (work, found):
        if found:
            say(found)
        refuse_existing(plan, checkpoint, work)
        check_space(plan, checkpoint, assignments)
        digest = quantize_model(plan, checkpoint, assignments, work, progress)
        for assignment in assignments:
            write(plan, checkpoint, assignment, work, digest, progress)
        notes = [note for stage in work.stages.values() for note in stage.get("notes", [])]
        for note in notes:
            say(note)
        if not plan.check:
            return None
        return judge(plan, checkpoint, assignments, notes, progress)


def write(
    plan: Plan,
    checkpoint: Checkpoint,
    assignment: Assignment,
    work: Work,
    digest: str,
    progress: Progress,
) -> None:
    """One artifact under its final name, complete; skipped when an earlier run finished it."""
    label, path = assignment.target.label, artifact_path(plan, checkpoint, assignment)
    if work.done(f"written/{label}") and path.exists():
        return
    progress("writing", 0, 1, path.name)
    work.finish(f"writing/{label}")  # from here on a file of that name is ours
    container = export.CONTAINERS[assignment.target.container]
    container.write(
        path,
        checkpoint.arch,
        artifact_tensors(work, checkpoint, assignment),
        checkpoint.folder,
        provenance(plan, checkpoint, assignment, digest),
        overwrite=True,
    )
    work.finish(f"written/{label}")
    progress("writing", 1, 1, path.name)


def provenance(
    plan: Plan, checkpoint: Checkpoint, assignment: Assignment, digest: str
) -> dict[str, Any]:
    """What the file says about its making. Nothing in it depends on when or where it was made."""
    return {
        "version": quantize.__version__,
        "model": checkpoint.name,
        "fingerprint": checkpoint.fingerprint(),
        "preset": assignment.target.preset,
        "method": plan.method,
        "plan": plan.recipe(),
        "calibration_sha256": digest,
        "fallbacks": list(assignment.fallbacks),
    }


def artifact_path(plan: Plan, checkpoint: Checkpoint, assignment: Assignment) -> Path:
    """Final name of an artifact."""
    return assignment.target.path(plan.output, checkpoint.name)


def refuse_existing(plan: Plan, checkpoint: Checkpoint, work: Work) -> None:
    """Raise EdgequantError when an output is there that this plan's own unfinished run did not write."""
    if plan.overwrite:
        return
    for target in plan.targets:
        path = target.path(plan.output, checkpoint.name)
        if path.exists() and not work.done(f"writing/{target.label}"):
            raise EdgequantError(f"{path} exists; use --overwrite, or another folder with -o.")


def weight_bytes(checkpoint: Checkpoint, assignment: Assignment) -> int:
    """Bytes of all tensors of a target; the container adds its header and the tokenizer."""
    total = 0.0
    for name, shape in checkpoint.tensors.shapes.items():
        block = assignment.types.get(name)
        cells = shape[0] * (shape[1] if len(shape) == 2 else 1)
        total += cells * (block.bits / 8 if block else 4)
    return round(total)


def check_space(plan: Plan, checkpoint: Checkpoint, assignments: list[Assignment]) -> None:
    """Raise EdgequantError when the disk cannot hold the artifacts, their work copies and hidden states."""
    needed = 2 * sum(weight_bytes(checkpoint, assignment) for assignment in assignments)
    needed += 3 * 4 * plan.rows * plan.length * checkpoint.arch.hidden
    free = shutil.disk_usage(plan.output).free
    if free < needed:
        raise EdgequantError(
            f"{plan.output} has {free / 1e9:.1f} GB free and the run needs about {needed / 1e9:.1f} GB; "
            "free some, or choose another disk with -o."
        )


def code_version() -> str:
    """Version and sha256 of the program's own source: changed code never continues old work."""
    digest = hashlib.sha256(quantize.__version__.encode())
    for package in (calib_data, runtime, export, quantize):
        for path in sorted(Path(str(package.__file__)).parent.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()
