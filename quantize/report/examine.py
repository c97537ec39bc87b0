"""Everything about one artifact: open it, then measure it once its scores are known."""

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from calib_data import Windows
from export.stated import Difference
from quantize.checkpoint import Checkpoint
from quantize.exact.exact import Exact, exact
from quantize.progress import Progress
from quantize.report.checks import Check, not_measured, sound
from quantize.report.made import Made, made
from quantize.report.metrics import TokenScores, histogram, summarize
from quantize.report.positions import by_position
from quantize.report.report import ArtifactResult, GenerationSpeed, WindowScore
from quantize.report.scan import BETWEEN, Scan, TensorFact, scan, weights
from quantize.report.sensitivity import Sensitivity, sensitivity
from quantize.report.subject import Subject
from quantize.report.tokens import TokenizerCheck, check_tokenizer
from quantize.report.unfolded import unfolded_notes
from quantize.report.worst import Worst, flipped_tokens, worst_tokens
from runtime.checkpoint import model_name
from runtime.engine import Engine, OpsEngine
from runtime.generate import generate
from runtime.model import Model

TIMED = 32
"""Tokens generated for the speed."""


@dataclass(frozen=True)
class Stored:
    """What an artifact is beside what it computes."""

    scan: Scan
    bits_per_weight: float
    tokenizer: TokenizerCheck | None
    made: Made
    differences: tuple[Difference, ...]
    checks: tuple[Check, ...]
    """Whether it is fit for use, whatever it computes."""
    notes: tuple[str, ...]


MOST = 20
"""Differences, and weights with blocks out of line, told one by one."""
UNREAD = "its stored tensors are not read here"


def stored_checks(found: Scan | None, told: Exact) -> tuple[Check, ...]:
    """Checks of the stored tensors, None where they are not read, and of all that is said."""
    differences = [difference.sentence() for difference in told.differences]
    said = sound("statements", first(differences, "of what it says differ from its original"))
    if told.notes and not differences:  # what was compared is alike, and that is not all
        said = not_measured("statements", told.notes[0])
    written = not_measured("hashes", "it holds no hashes of what was written")
    if told.changes is not None:
        written = sound("hashes", first(told.changes, "parts are not what was written"))
    if found is None:
        return not_measured("tensors", UNREAD), not_measured("rounding", UNREAD), said, written
    rounding = sound("rounding", first(found.faults, "weights are not what they should be"))
    if BETWEEN in found.notes:
        rounding = not_measured("rounding", BETWEEN)
    return sound("tensors", found.problems), rounding, said, written


def first(sentences: Sequence[str], what: str) -> list[str]:
    """The first MOST of them, and how many more there are."""
    more = len(sentences) - MOST
    return [*sentences[:MOST], *([f"{more:,} more {what}"] if more > 0 else [])]


def look(checkpoint: Checkpoint, source: Model, subject: Subject, ids: np.ndarray) -> Stored:
    """Its tensors and all it says against the original's, and what the text ids (T,) tells of it.

    `source` is the checkpoint as the engine has it that it is judged with.
    """
    how = made(subject.container, subject.path, checkpoint)
    scanned = scan(source, subject.model, tuned=how.tuned) if subject.model else None
    found = scanned or Scan((), (), False)
    stored = sum(fact.bytes for fact in found.tensors) or subject.bytes
    checked = None
    if source.tokenizer is not None and subject.tokenizer is not None:
        checked = check_tokenizer(source.tokenizer, subject.tokenizer)
    told = exact(checkpoint, subject.path, subject.container, subject.model)
    notes = subject.notes + found.notes + (checked.notes if checked else ()) + told.notes
    if subject.backend == "onnxruntime":
        notes += unfolded_notes(subject.path, subject.engine, ids)
    bits = 8 * stored / weights(source.arch)
    return Stored(found, bits, checked, how, told.differences, stored_checks(scanned, told), notes)


def examine(
    original: OpsEngine | None,
    checkpoint: Checkpoint,
    source: Model,
    subject: Subject,
    scores: TokenScores,
    worst: Worst,
    windows: Windows,
    progress: Progress,
) -> tuple[ArtifactResult, tuple[Check, ...]]:
    """The artifact's result, before gates, and the checks of what is stored.

    Without `original` the effect of each part alone, which takes longest, is not measured.
    """
    stored = look(checkpoint, source, subject, windows.ids[0])
    found, checked = stored.scan, stored.tokenizer
    effects = Sensitivity("not measured; --report measures it.")
    if original is not None:
        effects = measure_effects(original, subject, found, windows.ids, progress)
    names = np.array(windows.domains)
    progress(f"speed of {subject.label}", 0, 1, "")
    result = ArtifactResult(
        label=subject.label,
        file=model_name(subject.path),
        container=subject.container,
        bytes=subject.bytes,
        bits_per_weight=stored.bits_per_weight,
        backend=subject.backend,
        metrics=summarize(scores, np.ones(len(names), bool)),
        domains={str(name): summarize(scores, names == name) for name in np.unique(names)},
        windows=window_scores(scores, windows.domains),
        histogram=histogram(scores.kl),
        positions=by_position(scores),
        worst=worst_tokens(scores, windows, source.tokenizer, worst),
        flipped=flipped_tokens(scores, windows, source.tokenizer),
        tensors=with_effects(found.tensors, effects, subject.refused_types),
        parts=effects.parts,
        sensitivity=effects.how,
        tokenizer=checked,
        speed=speed(subject.engine, [int(token) for token in windows.ids[0, :16]]),
        broken_tokens=int(scores.non_finite.sum()),
        failures=(),
        maker=subject.maker,
        notes=stored.notes,
        differences=stored.differences,
        command=stored.made.command,
    )
    progress(f"speed of {subject.label}", 1, 1, f"{result.speed.tokens_per_second:.1f} tokens/s")
    return result, stored.checks


def measure_effects(
    original: OpsEngine, subject: Subject, found: Scan, ids: np.ndarray, progress: Progress
) -> Sensitivity:
    """The effect of each part of an artifact whose tensors are sound."""
    if subject.model is None or found.problems:
        return Sensitivity("not measured, because the stored tensors cannot be used.")

    def named(stage: str, done: int, total: int, note: str) -> None:
        progress(f"{stage} of {subject.label}", done, total, note)

    return sensitivity(original, subject.model, found, ids, named)


def with_effects(
    facts: tuple[TensorFact, ...], effects: Sensitivity, refused: Mapping[str, str]
) -> tuple[TensorFact, ...]:
    """The facts with each tensor's own KL where it was measured, and the type it could not have."""
    kl = {effect.part: effect.kl for effect in effects.tensors}
    return tuple(
        replace(fact, kl=kl.get(fact.name), asked=refused.get(fact.name)) for fact in facts
    )


def window_scores(scores: TokenScores, domains: tuple[str, ...]) -> tuple[WindowScore, ...]:
    """Means of each window."""
    return tuple(
        WindowScore(
            domain,
            float(scores.kl[row].mean(dtype=np.float64)),
            float(scores.top1_match[row].mean()),
            float(scores.nll_original[row, :-1].mean(dtype=np.float64)),
            float(scores.nll_artifact[row, :-1].mean(dtype=np.float64)),
        )
        for row, domain in enumerate(domains)
    )


def speed(engine: Engine, prompt: list[int]) -> GenerationSpeed:
    """Median time of a greedy step after `prompt`; the first run warms caches and threads up.

    In a short context the prompt is cut, and fewer steps are timed.
    """
    times: list[float] = []
    prompt = prompt[: max(1, engine.arch.context // 2)]
    timed = min(TIMED, engine.arch.context - len(prompt) - 1)
    for count in (min(4, timed), timed):
        times.clear()
        last = None
        for _ in generate(engine, prompt, count + 1):
            now = time.perf_counter()
            if last is not None:  # the first token pays for reading the prompt
                times.append(now - last)
            last = now
    return GenerationSpeed(timed, float(1 / np.median(times)), machine())


def machine() -> str:
    """What the speed was measured on, without naming the host."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
