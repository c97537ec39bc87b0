"""Small runs for the tests of this folder: a plan, and the walk over the layers alone."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantize.calibration import make_imatrix
from quantize.checkpoint import Checkpoint
from quantize.plan import Assignment, Plan, assign
from quantize.progress import Progress, silent
from quantize.run import job as job_module
from quantize.run.job import Job
from quantize.run.sequential import quantize_model
from quantize.run.store import Store
from quantize.run.stored import stored
from quantize.run.way import WAYS, Way
from runtime.model import Model
from runtime.tensor import Tensor


def small_plan(model: Path, *to: str, **changes: Any) -> Plan:
    """A plan with 4 windows of 64 tokens."""
    flags: dict[str, Any] = {"model": str(model), "to": list(to), "rows": 4, "length": 64}
    flags |= {"effort": "low", "eval_length": 64}
    return Plan.from_flags(None, flags | changes)


LEAST = WAYS[-1]
"""The way that holds least."""
ON_DISK = WAYS[1]
"""The one whose hidden states lie on disk, and that is else as without a limit."""


def hold(monkeypatch: pytest.MonkeyPatch, way: Way) -> None:
    """Let every run without a limit go a way."""
    for module in (job_module, make_imatrix):
        monkeypatch.setattr(module, "WAYS", (way,))


@dataclass(frozen=True)
class Walk:
    """What a walk left."""

    job: Job
    digest: str

    @property
    def checkpoint(self) -> Checkpoint:
        """The original."""
        return self.job.checkpoint

    @property
    def assignments(self) -> tuple[Assignment, ...]:
        """The types of every target."""
        return self.job.assignments

    @property
    def work(self) -> Store:
        """What the walk stored."""
        return self.job.store

    def tensors(self, target: int = 0) -> dict[str, Tensor]:
        """Every tensor of one target, as a file would hold it."""
        member = self.assignments[target]
        return {name: stored(self.job, member, name) for name in self.checkpoint.tensors}

    def model(self, target: int = 0) -> Model:
        """The rounded model, ready for an engine."""
        return Model(self.checkpoint.arch, self.tensors(target), self.checkpoint.tokenizer)

    def notes(self) -> list[str]:
        """What the user is told."""
        return self.work.notes


def assigned(plan: Plan, folder: Path, progress: Progress = silent) -> Job:
    """The job of a plan without automatic targets, with its work in a folder that exists."""
    job = Job.resolve(plan, progress)
    types = [assign(target, job.checkpoint.arch, job.rules) for target in job.targets]
    return replace(job, store=Store(folder, {"model": {"name": "key"}})).assigned(types)


def walk(plan: Plan, folder: Path, progress: Progress = silent) -> Walk:
    """Calibrate and round into a work folder (a begun one goes on), without an artifact."""
    folder.mkdir(parents=True, exist_ok=True)
    job = assigned(plan, folder, progress)
    return Walk(job, quantize_model(job))


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Whether two sets of tensors hold the same bytes."""
    return left.keys() == right.keys() and all(
        left[name].qtype is right[name].qtype and np.array_equal(left[name].data, right[name].data)
        for name in left
    )
