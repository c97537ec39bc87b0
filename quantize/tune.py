"""After-tuning: teach a rounded target the original's predictions, through its continuous numbers.

Rounding settles each layer by itself; what its errors do together is seen only at the end. Here
norms, biases and block scales (student.py) follow the gradient of KL(original || target) over the
calibration windows for a few steps, while every code stays. One window of eight of each domain is
held back: the best state on them is kept, and only when the KL of every domain fell. A target that
does not get better keeps its bytes, and the user is told.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import cos, pi, sqrt

import numpy as np
import torch

from quantize.checkpoint import Checkpoint
from quantize.divergence import Head
from quantize.methods import METHODS
from quantize.passes import folder_name, stored
from quantize.plan import EFFORTS, Assignment, Plan
from quantize.progress import Progress
from quantize.resume import Work
from quantize.stream import Allocate
from quantize.student import (
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
    ids: np.ndarray
    """(rows, T)"""
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
        return np.setdiff1d(np.arange(len(self.ids)), self.held_back)

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
        found = kl(self.student, deltas, self.ids, self.teacher, rows, self.allocate)
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


def tune_targets(
    plan: Plan,
    checkpoint: Checkpoint,
    assignments: list[Assignment],
    work: Work,
    progress: Progress,
) -> None:
    """Tune every rounded target in the work folder that calibrates; see `passes.stored`."""
    steps = EFFORTS[plan.effort].steps if METHODS[plan.method].calibrated else 0
    left = [a for a in assignments if steps and not work.done(stage(a)) and not is_float(a)]
    if not left:
        return
    ops, allocate = TorchOps(plan.device), partial(work.allocate, max_ram=plan.max_ram)
    ids = work.load("calibration", "ids")
    domains = work.load("calibration", "domains")
    teacher = run_teacher(checkpoint, ids, ops, allocate)
    for member in left:
        student = open_student(checkpoint, member, work, ops)
        task = TuningTask(student, teacher, ids, domains, allocate, plan.seed)
        tune(task, member, steps, work, progress)
    for name in ("teacher-states", "student-states"):
        work.drop(f"{name}.npy")


def stage(member: Assignment) -> str:
    """The stage that records a target's tuning; "accepted" says whether it was kept."""
    return f"{folder_name(member)}/tuned"


def is_float(member: Assignment) -> bool:
    """Whether nothing of a target was rounded to codes."""
    return all(block.is_float for block in member.types.values())


def open_student(checkpoint: Checkpoint, member: Assignment, work: Work, ops: TorchOps) -> Student:
    """A target as it was rounded."""
    arch = checkpoint.arch
    head = Head(stored(work, checkpoint, member, arch.head), ops.device)
    return Student(arch, ops, lambda name: stored(work, checkpoint, member, name), head)


def tune(task: TuningTask, member: Assignment, steps: int, work: Work, progress: Progress) -> None:
    """Tune one target, from where a killed run left it, and store it when it got better."""
    label, name = member.target.label, stage(member)
    if not len(task.training):
        rows = len(task.ids)
        note = f"{label} tuning was left out: {rows} windows leave none to train on; give more rows"
        work.finish(name, accepted=False, notes=[note])
        return

    def keep(state: State) -> None:
        save_state(work, member, state)
        note = f"KL {average(state.start):.5f} -> {average(state.reached):.5f}"
        progress(f"tuning {label}", state.step, steps, note)

    state = load_state(work, member, task) if work.done(f"{name}-state") else begin(task)
    state = train(task, state, steps, keep)
    notes = []
    if state.worse:
        notes = [f"{label} tuning was dropped: KL on {', '.join(state.worse)} did not fall"]
    else:
        save_tuned(task.student, state.best, member, work)
    figures = {"before": state.start, "after": state.reached}
    work.finish(name, accepted=not state.worse, notes=notes, kl=figures)
    work.drop(f"{name}-state.npz")


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
        _, gradient = kl_gradient(task.student, state.deltas, task.ids, task.teacher, rows)
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


def save_state(work: Work, member: Assignment, state: State) -> None:
    """Keep what a killed run needs to go on."""
    arrays = {
        f"{field}/{name}": array.cpu().numpy()
        for field in KEPT
        for name, array in getattr(state, field).items()
    }
    name = f"{stage(member)}-state"
    figures = {key: list(getattr(state, key).values()) for key in ("start", "reached")}
    arrays |= {key: np.array(value) for key, value in figures.items()}
    work.save(name, arrays | {"step": np.array(state.step)})
    work.finish(name)


def load_state(work: Work, member: Assignment, task: TuningTask) -> State:
    """What `save_state` kept."""
    name, device = f"{stage(member)}-state", task.student.ops.device
    names = list(zeros(task.student))

    def deltas(field: str) -> Deltas:
        return {n: torch.from_numpy(work.load(name, f"{field}/{n}")).to(device) for n in names}

    domains = [str(domain) for domain in np.unique(task.domains)]

    def figures(field: str) -> dict[str, float]:
        return dict(zip(domains, work.load(name, field).tolist(), strict=True))

    return State(
        int(work.load(name, "step")),
        deltas("deltas"),
        deltas("mean"),
        deltas("square"),
        deltas("best"),
        figures("start"),
        figures("reached"),
    )


def save_tuned(student: Student, deltas: Deltas, member: Assignment, work: Work) -> None:
    """Store the tensors that changed beside the rounded ones, which stay as they are."""
    for index in range(student.arch.layers):
        parts = student.layer(index)
        packed = {part.tensor.name.split(".", 2)[2]: part.packed(deltas) for part in parts}
        work.save(f"{stage(member)}/blk.{index}", packed)
    work.save(f"{stage(member)}/{NORM}", {"weight": student.norm().packed(deltas)})
