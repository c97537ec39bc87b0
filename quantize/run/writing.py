"""One artifact of a job: what it says of its making, its exact size, and writing it."""

from pathlib import Path
from typing import Any

import export
import quantize
from export import Container
from export.clipping import watch
from export.files import new_file, remove_parts
from quantize.allocation.budget import Size, Types
from quantize.plan import Assignment, Target, assign
from quantize.run.cost import Cost
from quantize.run.job import Job
from quantize.run.sight import beside, tower_told
from quantize.run.stored import artifact_tensors
from runtime.errors import UnsupportedError
from runtime.tensor import stored_bytes


def exact_size(job: Job, target: Target, digest: str, fallbacks: tuple[str, ...]) -> Size:
    """Types -> bytes of the artifact that this job would write with them."""
    container, checkpoint = export.CONTAINERS[target.container], job.checkpoint

    def size(types: Types) -> int:
        assignment = job.kept.of(tower_told(job, Assignment(target, types, fallbacks)))
        extra, more = provenance(job, assignment, digest), beside(job, assignment)
        return container.size(checkpoint.arch, types, checkpoint.files, extra, **more)

    return size


def artifact_bytes(job: Job) -> list[int]:
    """Bytes of each artifact, exactly."""
    # the artifact names the sha256 of the text that was read, if any: only its length counts here
    digest = "0" * 64 if job.reads_text else ""
    return [exact_size(job, a.target, digest, a.fallbacks)(a.types) for a in job.assignments]


def refuse_unwritable(job: Job, target: Target) -> None:
    """Raise EdgequantError, before any work, where a container cannot say what the model computes.

    Other targets have their sizes told at the start, which raises as well.
    """
    usual = Target(target.container, next(iter(export.CONTAINERS[target.container].presets)))
    exact_size(job, target, "", ())(assign(usual, job.checkpoint.arch, ()).types)


def write(job: Job, assignment: Assignment, digest: str) -> None:
    """One artifact under its final name, complete; skipped when an earlier run finished it."""
    target, path = assignment.target, job.path(assignment.target)
    if job.store.written(target).done and path.exists():
        return
    job.progress(f"writing {path.name}", 0, 1, "")
    job.store.writing(target).finish()  # from here on a file of that name is ours
    remove_parts(path)
    notes: list[str] = []
    tensors = artifact_tensors(job, assignment)
    export.CONTAINERS[target.container].write(
        path,
        job.checkpoint.arch,
        watch(tensors, job.checkpoint.tensors, notes),
        job.checkpoint.files,
        provenance(job, assignment, digest),
        overwrite=True,
        **beside(job, assignment),
    )
    notes += write_companion(path, export.CONTAINERS[target.container])
    job.store.written(target).finish(notes=[f"{target.label} {note}" for note in notes])
    job.progress(f"writing {path.name}", 1, 1, "")


def write_companion(path: Path, container: Container) -> list[str]:
    """The small text beside an artifact, if its container has one; says why where it is missing."""
    if container.companion is None:
        return []
    try:
        text = container.companion.text(path)
    except UnsupportedError as error:
        return [str(error)]
    beside = container.companion.path(path)
    remove_parts(beside)
    with new_file(beside, overwrite=True) as temp:
        temp.write_text(text, encoding="utf-8")
    return []


def provenance(job: Job, assignment: Assignment, digest: str) -> dict[str, Any]:
    """What the file says about its making. Nothing in it depends on when or where it was made."""
    told = job.reader_notes[assignment.target.container]
    noted: dict[str, Any] = {"reader_notes": list(told)} if told else {}
    if assignment.copied:
        noted["copied"] = list(assignment.notes[len(assignment.fallbacks) :])
    if job.vision_sha256:
        noted["vision_sha256"] = job.vision_sha256
    return (
        job.imatrix_keys
        | noted
        | {
            "version": quantize.__version__,
            "model": job.checkpoint.name,
            "fingerprint": job.fingerprint,
            "preset": assignment.target.preset,
            "method": job.recipe.method.name,
            "plan": job.described,
            "calibration_sha256": digest,
            "fallbacks": list(assignment.fallbacks),
        }
    )


def writing_cost(job: Job, sizes: list[int]) -> Cost:
    """Of artifacts of these sizes. Tensors go through one at a time, as read and as stored."""
    shapes = job.checkpoint.arch.shapes()
    tensors = [
        (stored_bytes(qtype, shapes[name]), name)
        for member in job.assignments
        for name, qtype in member.types.items()
    ]
    largest, name = max(tensors, default=(0, ""))
    return Cost(memory=2 * largest, what=name, disk=sum(sizes), kept=sum(sizes))
