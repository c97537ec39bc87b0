"""Run written artifacts against their original, write the report, and refuse what fails a gate."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import quantize
from calib_data import Windows
from export.files import remove_parts
from quantize.checkpoint import Checkpoint, open_checkpoint
from quantize.plan import Plan, check_gates
from quantize.plan.assignment import refused_types
from quantize.plan.values import paths_of, settled, sized
from quantize.progress import Progress
from quantize.report.baseline import notes_on, read_baseline
from quantize.report.checks import Check, failures, sound
from quantize.report.compare import compare
from quantize.report.examine import examine
from quantize.report.gate import Gates, integrity_checks
from quantize.report.images import ImageRow, ImageScores, after_images, digest, image_rows
from quantize.report.original import (
    for_effects,
    open_original,
    original_backend,
)
from quantize.report.reject import reject_failed
from quantize.report.report import (
    ArtifactResult,
    Evaluation,
    GateValues,
    OriginalModel,
    Report,
    now,
    read_report,
)
from quantize.report.scan import weights
from quantize.report.score_judge import check_texts, measure_scores
from quantize.report.score_report import AnyReport, ScoreGates
from quantize.report.settings import Settings, held_out
from quantize.report.subject import Subject, open_subject, refuse_another_model
from quantize.report.worst import Worst
from quantize.report.written import REPORTS, refuse_reports, write
from quantize.run.job import Job
from runtime.checkpoint import hub_id, model_name
from runtime.containers import recognise
from runtime.errors import InputError
from runtime.memory import require_memory
from runtime.scores import marker_id


@dataclass(frozen=True)
class Setup:
    """What is known before any artifact is there."""

    windows: Windows
    evaluation: Evaluation
    original: OriginalModel
    gates: Gates | ScoreGates
    images: list[ImageRow]
    """What a model that reads images is judged with as well."""


def judge(setup: Setup, job: Job, notes: list[str]) -> AnyReport:
    """Measure every artifact of a finished run and write report.json, report.html and README.md.

    An artifact that fails a gate is renamed to NAME.rejected. `notes` are the run's fallbacks; one
    that starts with a target's label goes to that target's result.
    """
    from quantize.report import render  # with matplotlib, which takes a second to import

    paths = [job.path(assignment.target) for assignment in job.assignments]
    # the list is not kept: an open file cannot be renamed everywhere
    report = measure(
        setup,
        job.checkpoint,
        open_written(job, paths, notes),
        job.device,
        job.progress,
    )
    labels = tuple(f"{assignment.target.label} " for assignment in job.assignments)
    own = tuple(note for note in notes if not note.startswith(labels))
    general = (*job.checkpoint.notes, *report.notes, *own)
    report = reject_failed(replace(report, notes=general), paths)
    # the pipeline refused files of other runs before it began; what is here now is its own
    for name in REPORTS:
        remove_parts(job.output / name)
    write(
        report,
        job.output,
        render.card(report, job.described, hub_id(job.checkpoint.folder.resolve())),
        overwrite=True,
    )
    return report


def open_written(job: Job, paths: list[Path], notes: list[str]) -> list[Subject]:
    """The artifacts of a run, each with the fallbacks and the notes on readers that concern it."""
    subjects = []
    for assignment, path in zip(job.assignments, paths, strict=True):
        label = assignment.target.label
        subject = open_subject(label, path)
        own = [note.removeprefix(label).strip() for note in notes if note.startswith(f"{label} ")]
        of_readers = job.reader_notes[assignment.target.container]
        told = (*of_readers, *assignment.notes, *own, *subject.notes)
        refused = refused_types(assignment, job.checkpoint.arch, job.rules)
        subjects.append(replace(subject, notes=told, refused_types=refused))
    return subjects


def check_files(
    files: list[Path],
    against: str | None,
    report_folder: Path | None,
    backend: str,
    flags: dict[str, Any],
    progress: Progress,
    reject: bool = False,
    effects: bool = True,
) -> AnyReport:
    """Measure files against a checkpoint (None = the bundled one), named by their file names.

    `backend` runs GGUF files; `flags` are fields of Settings. With `report_folder`, report.json and
    report.html are written there. With `reject`, a file that fails a gate becomes FILE.rejected.
    Without `effects`, those of single layers and tensors are not measured.
    Raises EdgequantError for bad input, before any measurement.
    """
    labels = [model_name(file) for file in files]
    if len(set(labels)) < len(labels):
        raise InputError("two of the files have the same name; rename one of them.")
    if report_folder is not None:
        refuse_reports(report_folder)
    flags = flags | {"adapter": paths_of(flags.get("adapter") or (), "adapter")}
    settings = Settings(**settled(sized(flags), get_type_hints(Settings)))
    for file in files:
        recognise(file)
    if settings.baseline is not None:
        read_report(settings.baseline)
    checkpoint = open_checkpoint(against, settings.adapter)
    subjects = [
        open_subject(label, file, backend, settings.kv)
        for label, file in zip(labels, files, strict=True)
    ]
    for subject in subjects:
        refuse_another_model(subject, checkpoint)
    context = min(arch.context for arch in (checkpoint.arch, *(s.engine.arch for s in subjects)))
    names = [{label} for label in labels]
    setup = prepare(settings, checkpoint, checkpoint.fingerprint(), names, context)
    report = measure(
        setup,
        checkpoint,
        subjects,
        settings.device,
        progress,
        effects,
    )
    report = replace(report, notes=(*checkpoint.notes, *report.notes))
    if reject:
        report = reject_failed(report, files)
    if report_folder is not None:
        report_folder.mkdir(parents=True, exist_ok=True)
        write(report, report_folder, None, overwrite=False)
    return report


def prepare_run(plan: Plan, job: Job) -> Setup:
    """What judges the artifacts of a run, each known by its label and its file name.

    Raises as `prepare` does.
    """
    names = [{target.label, job.path(target).name} for target in job.targets]
    return prepare(Settings.of(plan), job.checkpoint, job.fingerprint, names, job.context)


def prepare(
    settings: Settings,
    checkpoint: Checkpoint,
    fingerprint: str,
    artifacts: list[set[str]],
    context: int,
) -> Setup:
    """Read the evaluation text and the baseline, and check that they can be used.

    `context` is the shortest of the model and its artifacts, in tokens.

    Raises EdgequantError for a bad length, a baseline about something else or a vision tower that
    is not whole, CalibrationError for text that cannot be had.
    """
    windows, images = held_out(settings, checkpoint, context), image_rows(checkpoint)
    evaluation = evaluation_of(settings, windows, images)
    arch = checkpoint.arch
    check_gates(settings, arch)
    check_images(settings, checkpoint, images)
    original = OriginalModel(
        name=checkpoint.name,
        fingerprint=fingerprint,
        family=arch.family,
        weights=weights(arch),
        bytes=checkpoint.nbytes,
        backend=settings.reference or original_backend(arch, settings.device),
    )
    if original.backend == "native":
        require_memory(checkpoint.computed_bytes)
    if arch.score_head:
        marker_id(arch.score_head, checkpoint.tokenizer)  # what has none is told before any work
        check_texts(windows)
        return Setup(windows, evaluation, original, ScoreGates(settings.min_rank), [])
    baseline, name = None, None
    if settings.baseline is not None:
        baseline = read_baseline(settings.baseline, original, evaluation, artifacts)
        name = settings.baseline.name
    asked = {f.name: getattr(settings, f.name) for f in fields(GateValues)}
    gates = Gates(**asked | {"baseline": baseline, "baseline_file": name})
    return Setup(windows, evaluation, original, gates, images)


def evaluation_of(settings: Settings, windows: Windows, images: list[ImageRow]) -> Evaluation:
    """What everything is measured on, as the report tells it."""
    return Evaluation(
        data=settings.eval_data,
        windows=windows.rows,
        length=windows.ids.shape[1],
        sha256=windows.sha256,
        summary=windows.summary(),
        images=digest(images),
    )


def check_images(settings: Settings, checkpoint: Checkpoint, images: list[ImageRow]) -> None:
    """Raise InputError for a gate on images where none can judge."""
    if settings.max_image_kl is not None and not images:
        raise InputError(
            f"--max-image-kl measures text after images, and {checkpoint.name} reads none, or none "
            f"of those that judge fits its context of {checkpoint.arch.context}; leave it out."
        )


def measure(
    setup: Setup,
    checkpoint: Checkpoint,
    subjects: list[Subject],
    device: str,
    progress: Progress,
    effects: bool = True,
) -> AnyReport:
    """Compare, examine and gate every artifact."""
    if isinstance(setup.gates, ScoreGates):
        known = (setup.windows, setup.evaluation, setup.original, setup.gates)
        return measure_scores(*known, checkpoint, subjects, device, progress)
    source = checkpoint.model()
    original = open_original(checkpoint, setup.original.backend, device)
    source = replace(source, tokenizer=original.tokenizer)  # transformers makes its own
    engines = {subject.label: subject.engine for subject in subjects}
    worst = {label: Worst() for label in engines}
    scores = compare(original, engines, setup.windows.ids, progress, worst=worst)
    exchanged = for_effects(original, checkpoint, device) if effects else None
    images: dict[str, ImageScores] = {}
    if setup.images:
        seeing = exchanged or for_effects(original, checkpoint, device)
        images = after_images(seeing, subjects, setup.images, progress)
    results = []
    for subject in subjects:
        result, stored = examine(
            exchanged,
            checkpoint,
            source,
            subject,
            scores[subject.label],
            worst[subject.label],
            setup.windows,
            progress,
        )
        if found := images.get(subject.label):
            result = replace(result, images=found.metrics, image_windows=found.windows)
            stored += (sound("logits after images", found.problems),)
        results.append(apply_gates(result, stored, setup.gates))
    return Report(
        version=quantize.__version__,
        original=setup.original,
        evaluation=setup.evaluation,
        gates=setup.gates.values(),
        results=tuple(results),
        notes=setup.windows.left_out,
        time=now(),
    )


def apply_gates(result: ArtifactResult, stored: tuple[Check, ...], gates: Gates) -> ArtifactResult:
    """The result with every check and what failed, and notes on what was not measured of a gate."""
    of_gates = gates.checks(result)
    checks = (*integrity_checks(result, stored), *of_gates)
    notes = (*result.notes, *gates.notes(result), *notes_on(of_gates))
    return replace(result, failures=failures(checks), notes=notes, checks=checks)
