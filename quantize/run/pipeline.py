"""The main job: open, plan, calibrate and round, write, run what was written, judge it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import export
from export import Container
from export.files import restore
from quantize.allocation.budget import allocate, rule_fallbacks
from quantize.calibration.sensitivity import FisherStatistics, collect
from quantize.checkpoint import check_tables, open_checkpoint
from quantize.plan import Assignment, Plan, assign
from quantize.progress import Progress, silent
from quantize.report.judge import judge, prepare_run
from quantize.report.score_report import AnyReport
from quantize.report.written import REPORTS, refuse_other_report
from quantize.run.disk_usage import check_space, run_cost
from quantize.run.job import Job
from quantize.run.limited import limited
from quantize.run.resume import OVER
from quantize.run.sequential import quantize_model
from quantize.run.sight import tower_told
from quantize.run.text import calibration
from quantize.run.writing import artifact_bytes, exact_size, refuse_unwritable, write
from quantize.scale.connect import spread
from quantize.tuning.tune import tune_targets
from runtime.errors import InputError

Say = Callable[[str], None]


def run(plan: Plan, progress: Progress = silent, say: Say = lambda line: None) -> AnyReport | None:
    """Make every artifact of a plan and, unless plan.check is off, prove it against the original.

    Raises EdgequantError before any work for bad input. Killed at any moment, the same call goes on
    after the last finished stage and writes the same bytes. Gates that fail are in the report.
    """
    job = limited(Job.resolve(plan, progress))
    check_tables(job.checkpoint)
    with spread(plan, job) as job:
        return make(plan, job, say)


def make(plan: Plan, job: Job, say: Say) -> AnyReport | None:
    """`run` of a job whose workers are there."""
    setup = prepare_run(plan, job) if plan.check else None
    with job.store.locked():
        refuse_existing(plan, job)
        paths = [job.path(target) for target in job.targets]
        if job.store.done(OVER) and not all(path.exists() for path in paths):
            job.store.restart()  # a gate refused it: there is nothing to go on with
        told = setup.windows.left_out if setup else ()
        notes = (*job.checkpoint.notes, *job.kept.notes(), *job.reader_lines)
        for line in filter(None, [*notes, *told, job.store.begin()]):
            say(line)
        job = limited(assign_all(job))
        check_space(run_cost(job, artifact_bytes(job)).disk, job.store)
        for line in [*fallback_lines(job.assignments), *allocation_lines(job.assignments)]:
            say(line)
        if not (job.store.all_written.done and all(path.exists() for path in paths)):
            digest = quantize_model(job)
            tune_targets(job)
            for assignment in job.assignments:
                write(job, assignment, digest)
            job.store.all_written.finish()
        for note in job.store.notes:
            say(note)
        if setup is None:
            return None
        job.store.judging.finish()  # from here on the reports are ours
        return judge(setup, job, job.store.notes)


def assign_all(job: Job) -> Job:
    """The job with the types of every target; of automatic ones after a look at the gradients."""
    found, arch = [], job.checkpoint.arch
    for target in job.targets:
        if not target.automatic:
            found.append(assign(target, arch, job.rules))
            continue
        refuse_unwritable(job, target)
        # files may be gone when a run was killed at its very end: the manifest goes last
        if not job.store.statistics.done:
            collect(job, calibration(job))
        predictions = FisherStatistics(job.store.statistics).predictions()
        digest = str(job.store.calibration.facts["sha256"])
        size = exact_size(job, target, digest, rule_fallbacks(target, arch, job.rules))
        found.append(allocate(job.goal, target, arch, job.rules, predictions, size))
    return job.assigned([job.kept.of(tower_told(job, assignment)) for assignment in found])


def allocation_lines(assignments: tuple[Assignment, ...]) -> list[str]:
    """What is said aloud about automatic targets."""
    return [
        f"{a.target.label}: {a.allocation.bytes:,} bytes, predicted KL {a.allocation.kl:.5f}"
        for a in assignments
        if a.allocation
    ]


def fallback_lines(assignments: tuple[Assignment, ...]) -> list[str]:
    """What is said aloud about tensors that got another type than was asked for, or are copied."""
    return [f"{a.target.label}: {line}" for a in assignments for line in a.notes]


def artifacts(plan: Plan) -> list[dict[str, Any]]:
    """Target, path and bytes of each artifact that a run of this plan left, as JSON values."""
    checkpoint, found = open_checkpoint(plan.model, plan.adapter), []
    for target in plan.targets:
        path = target.path(plan.output, checkpoint.name)
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        found.append({"target": target.label, "path": str(path), "bytes": size})
    return found


def refuse_existing(plan: Plan, job: Job) -> None:
    """Raise InputError for an output that this plan's own unfinished run did not write.

    With `overwrite` only artifacts may be overwritten, never a folder of something else.
    """
    for target in plan.targets if plan.overwrite else ():
        refuse_foreign(job.path(target), export.CONTAINERS[target.container])
        refuse_foreign_companion(job.path(target), export.CONTAINERS[target.container])
    for name in REPORTS if plan.overwrite and plan.check else ():
        refuse_other_report(plan.output / name)
    if plan.overwrite:
        return
    ours = {
        path: job.store.writing(target)
        for target in plan.targets
        for path in files_of(job.path(target), export.CONTAINERS[target.container])
    }
    if plan.check:
        ours |= {plan.output / name: job.store.judging for name in REPORTS}
    for path, begun in ours.items():
        if path.exists() and not begun.done:
            raise InputError(f"{path} exists; use --overwrite, or another folder with -o.")


def refuse_foreign(path: Path, container: Container) -> None:
    """Raise InputError where what would be overwritten is no artifact."""
    restore(path)
    if container.reader.is_file:
        if path.is_dir():
            raise InputError(f"{path} is a folder; move it away, or choose another with -o.")
    elif path.exists() and not (path.is_dir() and ours_or_empty(path, container)):
        raise InputError(
            f"{path} is no artifact, so it is not overwritten; move it away, or choose another "
            "folder with -o."
        )


def files_of(path: Path, container: Container) -> list[Path]:
    """An artifact, and what goes beside it."""
    return [path, container.companion.path(path)] if container.companion else [path]


def refuse_foreign_companion(path: Path, container: Container) -> None:
    """Raise InputError where what would be overwritten beside an artifact is somebody's own."""
    if container.companion is None:
        return
    beside = container.companion.path(path)
    if beside.exists() and not container.companion.is_ours(beside):
        raise InputError(
            f"{beside} was not written by edgequant, so it is not overwritten; move it away, or "
            "choose another folder with -o."
        )


def ours_or_empty(path: Path, container: Container) -> bool:
    """Whether a folder has nothing to lose: an artifact, or empty."""
    return container.reader.recognises(path) or not any(path.iterdir())
