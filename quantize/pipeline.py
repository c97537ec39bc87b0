"""The main job: open, plan, calibrate and round, write, run what was written, judge it."""

import glob
import hashlib
import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import calib_data
import export
import quantize
import runtime
from quantize.automatic import Size, Types, allocate, rule_fallbacks
from quantize.calibrate import Progress, silent
from quantize.checkpoint import Checkpoint, open_checkpoint
from quantize.imatrix import for_model
from quantize.measure import STAGE, Measured, measure
from quantize.methods import METHODS
from quantize.passes import artifact_tensors, calibration, group, quantize_model
from quantize.plan import Assignment, Plan, Target, assign, check_rules
from quantize.report.judge import REPORTS, check_settings, judge
from quantize.report.report import Report
from quantize.resume import Work, work_folder
from quantize.space import check_space, disk_bytes
from quantize.tune import tune_targets
from runtime.errors import InputError, UnsupportedError

Say = Callable[[str], None]


def run(plan: Plan, progress: Progress = silent, say: Say = lambda line: None) -> Report | None:
    """Make every artifact of a plan and, unless plan.check is off, prove it against the original.

    Raises EdgequantError before any work for bad input. Killed at any moment, the same call goes on
    after the last finished stage and writes the same bytes. Gates that fail are in the report.
    """
    checkpoint = open_checkpoint(plan.model)
    check_rules(plan, checkpoint.arch)
    for_model(plan.imatrix, checkpoint.arch)
    check_device(plan.device)
    if plan.check:
        check_settings(plan, checkpoint)
    key = plan.key(checkpoint.fingerprint(), code_version())
    with work_folder(plan.output, key) as work:
        refuse_existing(plan, checkpoint, work)
        for line in filter(None, [work.begin()]):
            say(line)
        assignments = assign_all(plan, checkpoint, work, progress)
        made = sum(artifact_bytes(plan, checkpoint, assignments))
        check_space(plan, disk_bytes(plan, checkpoint, assignments, made), work)
        for line in [*fallback_lines(assignments), *allocation_lines(assignments)]:
            say(line)
        paths = [artifact_path(plan, checkpoint, assignment) for assignment in assignments]
        if not (work.done("written") and all(path.exists() for path in paths)):
            digest = quantize_model(plan, checkpoint, assignments, work, progress)
            tune_targets(plan, checkpoint, assignments, work, progress)
            for assignment in assignments:
                write(plan, checkpoint, assignment, work, digest, progress)
            work.finish("written")
        notes = [note for stage in work.stages.values() for note in stage.get("notes", [])]
        for note in notes:
            say(note)
        if not plan.check:
            return None
        work.finish("judging")  # from here on the reports are ours
        return judge(plan, checkpoint, assignments, notes, progress)


def assign_all(
    plan: Plan, checkpoint: Checkpoint, work: Work, progress: Progress
) -> list[Assignment]:
    """Types of every target; those of automatic ones after a look at the gradients."""
    found = []
    for target in plan.targets:
        if not target.automatic:
            found.append(assign(target, checkpoint.arch, plan.rules))
            continue
        # files may be gone when a run was killed at its very end: the manifest goes last
        if not work.done(STAGE):
            ids = calibration(plan, checkpoint, work, progress)
            measure(plan, checkpoint, ids, work, progress)
        predictions = Measured(work).predictions()
        digest = str(work.stages["calibration"]["sha256"])
        told = rule_fallbacks(target, checkpoint.arch, plan.rules)
        size = exact_size(plan, checkpoint, target, digest, told)
        found.append(allocate(plan, target, checkpoint.arch, predictions, size))
    return found


def exact_size(
    plan: Plan, checkpoint: Checkpoint, target: Target, digest: str, fallbacks: tuple[str, ...]
) -> Size:
    """Types -> bytes of the artifact that this plan would write with them."""
    container = export.CONTAINERS[target.container]

    def size(types: Types) -> int:
        extra = provenance(plan, checkpoint, Assignment(target, types, fallbacks), digest)
        return container.size(checkpoint.arch, types, checkpoint.folder, extra)

    return size


def artifact_bytes(plan: Plan, checkpoint: Checkpoint, assignments: list[Assignment]) -> list[int]:
    """Bytes of each artifact, exactly."""
    groups = group(assignments, METHODS[plan.method].calibrated)
    automatic = any(target.automatic for target in plan.targets)
    # the artifact names the sha256 of the text that was read, if any: only its length counts here
    digest = "0" * 64 if automatic or any(g.calibrated for g in groups) else ""
    return [
        exact_size(plan, checkpoint, a.target, digest, a.fallbacks)(a.types) for a in assignments
    ]


def allocation_lines(assignments: list[Assignment]) -> list[str]:
    """What is said aloud about automatic targets."""
    return [
        f"{a.target.label}: {a.allocation.bytes:,} bytes, predicted KL {a.allocation.kl:.5f}"
        for a in assignments
        if a.allocation
    ]


def fallback_lines(assignments: list[Assignment]) -> list[str]:
    """What is said aloud about tensors that could not have the type that was asked for."""
    return [f"{a.target.label}: {line}" for a in assignments for line in a.fallbacks]


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
    progress(f"writing {path.name}", 0, 1, "")
    work.finish(f"writing/{label}")  # from here on a file of that name is ours
    remove_parts(path)
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
    progress(f"writing {path.name}", 1, 1, "")


def provenance(
    plan: Plan, checkpoint: Checkpoint, assignment: Assignment, digest: str
) -> dict[str, Any]:
    """What the file says about its making. Nothing in it depends on when or where it was made."""
    given: dict[str, Any] = {}
    if plan.imatrix and (imatrix := for_model(plan.imatrix, checkpoint.arch)):
        given = imatrix.keys(plan.imatrix) | {"imatrix_sha256": plan.imatrix_sha256}
    return given | {
        "version": quantize.__version__,
        "model": checkpoint.name,
        "fingerprint": checkpoint.fingerprint(),
        "preset": assignment.target.preset,
        "method": plan.method,
        "plan": plan.recipe(),
        "calibration_sha256": digest,
        "fallbacks": list(assignment.fallbacks),
    }


def artifacts(plan: Plan) -> list[dict[str, Any]]:
    """Target, path and bytes of each artifact that a run of this plan left, as JSON values."""
    checkpoint, found = open_checkpoint(plan.model), []
    for target in plan.targets:
        path = target.path(plan.output, checkpoint.name)
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        found.append({"target": target.label, "path": str(path), "bytes": size})
    return found


def artifact_path(plan: Plan, checkpoint: Checkpoint, assignment: Assignment) -> Path:
    """Final name of an artifact."""
    return assignment.target.path(plan.output, checkpoint.name)


def refuse_existing(plan: Plan, checkpoint: Checkpoint, work: Work) -> None:
    """Raise EdgequantError for an output that this plan's own unfinished run did not write."""
    if plan.overwrite:
        return
    ours = {
        target.path(plan.output, checkpoint.name): f"writing/{target.label}"
        for target in plan.targets
    }
    if plan.check:
        ours |= {plan.output / name: "judging" for name in REPORTS}
    for path, stage in ours.items():
        if path.exists() and not work.done(stage):
            raise InputError(f"{path} exists; use --overwrite, or another folder with -o.")


def check_device(name: str) -> None:
    """Raise EdgequantError when torch cannot compute on a device."""
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UnsupportedError(
            f"device {name!r} cannot be used ({reason}); use --device cpu."
        ) from error


def remove_parts(path: Path) -> None:
    """Delete what a killed run left of its attempts to write `path` (see export.files)."""
    for suffix in (".part", ".old"):
        for left in path.parent.glob(f".{glob.escape(path.name)}.*{suffix}"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def code_version() -> str:
    """Version and sha256 of the program's own code: changed code never continues old work."""
    digest = hashlib.sha256(quantize.__version__.encode())
    for package in (calib_data, runtime, export, quantize):
        for path in sorted(Path(str(package.__file__)).parent.rglob("*.py")):
            digest.update(path.read_bytes())
    kernels = importlib.util.find_spec("runtime._native")
    if kernels and kernels.origin:
        digest.update(Path(kernels.origin).read_bytes())
    return digest.hexdigest()
