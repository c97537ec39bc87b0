"""After-tuning: teach a rounded target the original's predictions, through its continuous numbers.

Rounding settles each layer by itself; what its errors do together is seen only at the end. Here
norms, biases and block scales (tuning_model.py) follow the gradient of KL(original || target) over
the calibration windows for a few steps, while every code stays. One window of eight of each domain
is held back: the best state on them is kept, and only when the KL of every domain fell. A target
that does not get better keeps its bytes, and the user is told.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import cos, pi, sqrt

import numpy as np
import torch

from quantize.calibration.rows import Rows, rows_of
from quantize.calibration.stream import Allocate
from quantize.plan import Assignment
from quantize.run.job import Job
from quantize.run.store import StoredStep
from quantize.run.stored import stored
from quantize.tuning.divergence import Head
from quantize.tuning.tuning_model import (
    NORM,
    Deltas,
    Student,
    Teacher,
    kl,
    kl_gradient,
    run_teacher,
    zeros,
)
from runtime.backends.torch import TorchOps

WINDOWS = 2
"""Windows of one step."""
HELD_BACK = 8
"""One window of so many is held back."""
EVERY = 8
"""Steps between two looks at the windows held back, after which a killed run goes on."""
WARM = 4
"""Steps until the step size is reached."""
STEP = 1 / 128
"""Step size over the root of the KL at the start: that root grows like the rounding errors."""
DECAYS = (0.9, 0.95)
"""How much of the mean gradient and of its mean square stays at each step of Adam."""


@dataclass(frozen=True)
class TuningTask:
    """What a target is taught with."""

    student: Student
    teacher: Teacher
    rows: Rows
    domains: np.ndarray
    """(rows,) names"""
    allocate: Allocate
    seed: int

    @property
    def held_back(self) -> np.ndarray:
        """Rows that judge: the last of each domain."""
        rows = [np.flatnonzero(self.domains == domain) for domain in np.unique(self.domains)]
        return np.concatenate([of[-max(1, len(of) // HELD_BACK) :] for of in rows])

    @property
    def training(self) -> np.ndarray:
        """All other rows."""
        return np.setdiff1d(np.arange(len(self.rows.ids)), self.held_back)

    def batch(self, step: int) -> np.ndarray:
        """Rows of one step: all are seen, in random order, before any comes again."""
        rows = self.training
        size = min(WINDOWS, len(rows))
        at = np.arange(step * size, (step + 1) * size)
        rng = np.random.default_rng(self.seed)
        rounds = [rng.permutation(rows) for _ in range(at[-1] // len(rows) + 1)]
        return np.concatenate(rounds)[at]

    def judge(self, deltas: Deltas) -> dict[str, float]:
        """Domain -> mean KL of its windows held back, as the file would store the deltas."""
        rows = self.held_back
        found = kl(self.student, deltas, self.rows, self.teacher, rows, self.allocate)
        names = np.unique(self.domains)
        return {str(name): float(found[self.domains[rows] == name].mean()) for name in names}


@dataclass(frozen=True)
class State:
    """Where the tuning of a target stands."""

    step: int
    deltas: Deltas
    mean: Deltas
    """Running mean of the gradients, and of their squares."""
    square: Deltas
    best: Deltas
    """Best deltas so far on the windows held back."""
    start: dict[str, float]
    """Domain -> KL before the first step, and of `best`."""
    reached: dict[str, float]

    @property
    def worse(self) -> list[str]:
        """Domains whose KL did not fall."""
        return [name for name, kl in self.start.items() if not self.reached[name] < kl]


def tune_targets(job: Job) -> None:
    """Tune every rounded target in the work folder that calibrates; see `stored`."""
    left = [a for a in job.assignments if not job.store.tuned(a.target).done and not a.is_float]
    if not left or not job.tuning_steps:
        return
    ops = TorchOps(job.device)
    entry, arch = job.store.calibration, job.checkpoint.arch
    rows = rows_of(arch, entry.load, job.calibration.image_rows)
    with job.store.scratch(job.way.states) as allocate:
        teacher = run_teacher(job.checkpoint, rows, ops, allocate)
        for member in left:
            student = open_student(job, member, ops)
            domains, seed = entry.load("domains"), job.calibration.seed
            task = TuningTask(student, teacher, rows, domains, allocate, seed)
            tune(job, task, member)


def open_student(job: Job, member: Assignment, ops: TorchOps) -> Student:
    """A target as it was rounded."""
    arch = job.checkpoint.arch
    head = Head(stored(job, member, arch.head), ops.device)
    return Student(arch, ops, lambda name: stored(job, member, name), head, member.copied)


def tune(job: Job, task: TuningTask, member: Assignment) -> None:
    """Tune one target, from where a killed run left it, and store it when it got better."""
    label, steps, entry = member.target.label, job.tuning_steps, job.store.tuned(member.target)
    if not len(task.training):
        rows = len(task.rows.ids)
        note = f"{label} tuning was left out: {rows} windows leave none to train on; give more rows"
        entry.finish(accepted=False, notes=[note])
        return
    kept = job.store.tuning_state(member.target)

    def keep(state: State) -> None:
        save_state(kept, state)
        note = f"KL {average(state.start):.5f} -> {average(state.reached):.5f}"
        job.progress(f"tuning {label}", state.step, steps, note)

    state = load_state(kept, task) if kept.done else begin(task)
    state = train(task, state, steps, keep)
    notes = []
    if state.worse:
        notes = [f"{label} tuning was dropped: KL on {', '.join(state.worse)} did not fall"]
    else:
        save_tuned(job, task.student, state.best, member)
    figures = {"before": state.start, "after": state.reached}
    entry.finish(accepted=not state.worse, notes=notes, kl=figures)
    kept.drop()


def begin(task: TuningTask) -> State:
    """Nothing moved yet."""
    start = task.judge(zeros(task.student))
    nothing = zeros(task.student)
    return State(0, nothing, nothing, nothing, nothing, start, start)


def train(task: TuningTask, state: State, steps: int, keep: Callable[[State], None]) -> State:
    """Go on to the last step; `keep` is called at every look at the windows held back."""
    size = STEP * sqrt(average(state.start))
    while state.step < steps:
        rows = task.batch(state.step)
        _, gradient = kl_gradient(task.student, state.deltas, task.rows, task.teacher, rows)
        state = adam(state, gradient, size * schedule(state.step, steps))
        if state.step % EVERY == 0 or state.step == steps:
            state = keep_best(state, task.judge(state.deltas))
            keep(state)
    return state


def schedule(step: int, steps: int) -> float:
    """Part of the step size: a short rise, then half a cosine down to 0."""
    return min(1, (step + 1) / WARM) * (1 + cos(pi * step / steps)) / 2


def adam(state: State, gradient: Deltas, size: float) -> State:
    """One step of Adam (Kingma and Ba, 2015)."""
    keep_mean, keep_square = DECAYS
    step = state.step + 1
    mean, square, deltas = {}, {}, {}
    for name, now in gradient.items():
        mean[name] = keep_mean * state.mean[name] + (1 - keep_mean) * now
        square[name] = keep_square * state.square[name] + (1 - keep_square) * now.square()
        root = (square[name] / (1 - keep_square**step)).sqrt().clamp(min=1e-30)
        deltas[name] = state.deltas[name] - size * mean[name] / (1 - keep_mean**step) / root
    return replace(state, step=step, deltas=deltas, mean=mean, square=square)


def keep_best(state: State, judged: dict[str, float]) -> State:
    """The state with its deltas as the best ones, when they are.

    Fewer domains that did not fall come first, then the mean over domains.
    """
    new = replace(state, best=state.deltas, reached=judged)
    if (len(new.worse), average(judged)) < (len(state.worse), average(state.reached)):
        return new
    return state


def average(judged: dict[str, float]) -> float:
    """Mean over domains."""
    return sum(judged.values()) / len(judged)


KEPT = ("deltas", "mean", "square", "best")
"""Fields of a State that are arrays."""


def save_state(entry: StoredStep, state: State) -> None:
    """Keep what a killed run needs to go on."""
    arrays = {
        f"{field}/{name}": array.cpu().numpy()
        for field in KEPT
        for name, array in getattr(state, field).items()
    }
    figures = {key: list(getattr(state, key).values()) for key in ("start", "reached")}
    arrays |= {key: np.array(value) for key, value in figures.items()}
    entry.save(arrays | {"step": np.array(state.step)})
    entry.finish()


def load_state(entry: StoredStep, task: TuningTask) -> State:
    """What `save_state` kept."""
    names, device = list(zeros(task.student)), task.student.ops.device

    def deltas(field: str) -> Deltas:
        return {n: torch.from_numpy(entry.load(f"{field}/{n}")).to(device) for n in names}

    domains = [str(domain) for domain in np.unique(task.domains)]

    def figures(field: str) -> dict[str, float]:
        return dict(zip(domains, entry.load(field).tolist(), strict=True))

    return State(
        int(entry.load("step")),
        deltas("deltas"),
        deltas("mean"),
        deltas("square"),
        deltas("best"),
        figures("start"),
        figures("reached"),
    )


def save_tuned(job: Job, student: Student, deltas: Deltas, member: Assignment) -> None:
    """Store the tensors that changed beside the rounded ones, which stay as they are."""
    store, target = job.store, member.target
    for index in range(student.arch.layers):
        parts = student.layer(index)
        packed = {part.tensor.name.split(".", 2)[2]: part.packed(deltas) for part in parts}
        store.tuned_layer(target, index).save(packed)
    store.tuned_table(target, NORM).save({"weight": student.norm().packed(deltas)})
