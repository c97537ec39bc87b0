"""Everything about one artifact: open it, then measure it once its scores are known."""

import os
import platform
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from calib_data import Windows
from export import CONTAINERS
from quantize.checkpoint import Checkpoint
from quantize.loading import files_of, open_any, open_model
from quantize.progress import Progress
from quantize.report.metrics import TokenScores, histogram, summarize
from quantize.report.positions import by_position
from quantize.report.report import ArtifactResult, GenerationSpeed, WindowScore, WorstToken
from quantize.report.scan import Scan, TensorFact, scan, weights
from quantize.report.sensitivity import Sensitivity, sensitivity
from quantize.report.tokens import TokenizerCheck, check_tokenizer
from quantize.report.unfolded import unfolded_notes
from runtime.archs import FAMILIES
from runtime.checkpoint import model_name
from runtime.containers import recognise
from runtime.engine import Engine, OpsEngine, option_names
from runtime.errors import EdgequantError, InputError
from runtime.generate import generate
from runtime.model import Model
from runtime.onnx_file import VISION_MODEL
from runtime.tokenizer import Tokenizer
from runtime.vision.seeing import own_tower

WORST = 12
"""Tokens shown with their context."""
CONTEXT = 24
"""Tokens of text shown before such a token."""
TIMED = 32
"""Tokens generated for the speed."""


@dataclass(frozen=True)
class Subject:
    """An artifact, opened."""

    label: str
    path: Path
    container: str
    backend: str
    engine: Engine
    model: Model | None
    """Its stored tensors; None when only a foreign engine can read them."""
    notes: tuple[str, ...] = ()
    maker: str | None = None

    @property
    def bytes(self) -> int:
        """Size on disk, of all files when it is a folder."""
        return bytes_on_disk(self.path)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer as stored."""
        return (self.model and self.model.tokenizer) or self.engine.tokenizer


def bytes_on_disk(path: Path) -> int:
    """Of a file, all parts of it, or all files of a folder; 0 where there is nothing."""
    return sum(file.stat().st_size for file in files_of(path))


def open_subject(label: str, path: Path, backend: str = "native", kv: str | None = None) -> Subject:
    """Open an artifact on `backend` (numpy for a native one not built) or in its foreign engine.

    `kv` is how the native one and llama.cpp keep keys and values; None = float32.
    Raises EdgequantError when the file cannot be read or run at all, and for a `kv` that the engine
    has no choice of.
    """
    reader = recognise(path)
    container = CONTAINERS.get(reader.name)
    notes = []
    if reader.engine != "native":
        backend = reader.engine
    options = {} if kv is None else {"kv": kv}
    if kv is not None and "kv" not in option_names(backend):
        raise InputError(
            f"{label} runs on the {backend} backend, which keeps keys and values in its own way; "
            "leave out --kv."
        )
    try:
        engine = open_any(path, backend, "judging", **options)
    except EdgequantError as error:
        if container is None or backend != "native" or options:
            raise
        notes.append(f"run on the numpy backend, because the native one cannot: {error}")
        backend, engine = "numpy", open_any(path, "numpy")
    try:
        model = open_model(path)
    except EdgequantError as error:
        model = None
        notes.append(
            f"its stored tensors were not looked at, so bits count the whole file: {error}"
        )
    if own_tower(engine):
        tower = sum(file.stat().st_size for file in path.glob(f"{VISION_MODEL}*"))
        notes.append(f"{tower:,} of its bytes are the vision tower, which other files are without")
    maker = container.maker(path) if container else None
    if kv is not None:
        notes.append(f"judged with keys and values kept as {kv}")
    return Subject(label, path, reader.name, backend, engine, model, tuple(notes), maker)


def refuse_another_model(subject: Subject, checkpoint: Checkpoint) -> None:
    """Raise InputError for a file with the sizes of another model: that is no fault of the file."""
    if subject.model is None:
        return
    heads = [arch.score_head for arch in (subject.model.arch, checkpoint.arch)]
    if heads[0] != heads[1]:
        does = ["scores texts by a head" if head else "predicts tokens" for head in heads]
        raise InputError(
            f"{subject.label} {does[0]}, and {checkpoint.name} {does[1]}"
            f"{' of another form' if all(heads) else ''}: it was made from another model; give "
            "that one with --against."
        )
    kinds = [FAMILIES[arch.family].architecture for arch in (subject.model.arch, checkpoint.arch)]
    if kinds[0] != kinds[1]:
        raise InputError(
            f"{subject.label} is a {kinds[0]}, and {checkpoint.name} a {kinds[1]}: it was made "
            "from another model; give that one with --against."
        )
    found, expected = (
        (arch.layers, arch.hidden, arch.vocab) for arch in (subject.model.arch, checkpoint.arch)
    )
    if found != expected:
        raise InputError(
            f"{subject.label} has {found[0]} layers of width {found[1]} and {found[2]} tokens, and "
            f"{checkpoint.name} {expected[0]} of {expected[1]} and {expected[2]}: it was made from "
            "another model; give that one with --against."
        )


@dataclass(frozen=True)
class Stored:
    """What an artifact is beside what it computes."""

    scan: Scan
    bits_per_weight: float
    tokenizer: TokenizerCheck | None
    notes: tuple[str, ...]


def look(source: Model, subject: Subject, ids: np.ndarray) -> Stored:
    """Its tensors against the original's, its tokenizer, and what the text ids (T,) tells of it."""
    found = scan(source, subject.model) if subject.model else Scan((), (), False)
    stored = sum(fact.bytes for fact in found.tensors) or subject.bytes
    checked = None
    if source.tokenizer is not None and subject.tokenizer is not None:
        checked = check_tokenizer(source.tokenizer, subject.tokenizer)
    notes = subject.notes + found.notes + (checked.notes if checked else ())
    if subject.backend == "onnxruntime":
        notes += unfolded_notes(subject.path, subject.engine, ids)
    return Stored(found, 8 * stored / weights(source.arch), checked, notes)


def examine(
    original: OpsEngine | None,
    source: Model,
    subject: Subject,
    scores: TokenScores,
    windows: Windows,
    progress: Progress,
) -> tuple[ArtifactResult, tuple[str, ...]]:
    """The artifact's result, before gates, and what is wrong with its tensors.

    Without `original` the effect of each part alone, which takes longest, is not measured.
    """
    stored = look(source, subject, windows.ids[0])
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
        worst=worst_tokens(scores, windows, source.tokenizer),
        tensors=with_effects(found.tensors, effects),
        parts=effects.parts,
        sensitivity=effects.how,
        tokenizer=checked,
        speed=speed(subject.engine, [int(token) for token in windows.ids[0, :16]]),
        broken_tokens=int(scores.non_finite.sum()),
        failures=(),
        maker=subject.maker,
        notes=stored.notes,
    )
    progress(f"speed of {subject.label}", 1, 1, f"{result.speed.tokens_per_second:.1f} tokens/s")
    return result, found.problems


def measure_effects(
    original: OpsEngine, subject: Subject, found: Scan, ids: np.ndarray, progress: Progress
) -> Sensitivity:
    """The effect of each part of an artifact whose tensors are sound."""
    if subject.model is None or found.problems:
        return Sensitivity("not measured, because the stored tensors cannot be used.")

    def named(stage: str, done: int, total: int, note: str) -> None:
        progress(f"{stage} of {subject.label}", done, total, note)

    return sensitivity(original, subject.model, found, ids, named)


def with_effects(facts: tuple[TensorFact, ...], effects: Sensitivity) -> tuple[TensorFact, ...]:
    """The facts with each tensor's own KL where it was measured."""
    kl = {effect.part: effect.kl for effect in effects.tensors}
    return tuple(replace(fact, kl=kl.get(fact.name)) for fact in facts)


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


def worst_tokens(
    scores: TokenScores, windows: Windows, tokenizer: Tokenizer | None
) -> tuple[WorstToken, ...]:
    """The tokens of highest KL with their text; ids in angle brackets without a tokenizer."""

    def text(ids: np.ndarray) -> str:
        plain = [int(token) for token in ids]
        return tokenizer.decode(plain) if tokenizer else " ".join(f"<{token}>" for token in plain)

    order = np.argsort(-scores.kl, axis=None, kind="stable")[:WORST]
    found = []
    for row, at in zip(*np.unravel_index(order, scores.kl.shape), strict=True):
        ids = windows.ids[row]
        found.append(
            WorstToken(
                kl=float(scores.kl[row, at]),
                domain=windows.domains[row],
                window=int(row),
                position=int(at),
                context=text(ids[max(0, at + 1 - CONTEXT) : at + 1]),
                following=text(ids[at + 1 : at + 2]),
                original=text(scores.top_original[row, at : at + 1]),
                original_probability=float(scores.p_top_original[row, at]),
                artifact=text(scores.top_artifact[row, at : at + 1]),
                artifact_probability=float(scores.p_top_artifact[row, at]),
            )
        )
    return tuple(found)


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
