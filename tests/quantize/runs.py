"""Small runs for the tests of this folder: a plan, and the walk over the layers alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quantize.checkpoint import Checkpoint, open_checkpoint
from quantize.passes import quantize_model, stored
from quantize.plan import Assignment, Plan, assign
from quantize.progress import Progress, silent
from quantize.resume import Work
from runtime.model import Model
from runtime.tensor import Tensor


def small_plan(model: Path, *to: str, **changes: Any) -> Plan:
    """A plan with 4 windows of 64 tokens."""
    flags: dict[str, Any] = {"model": str(model), "to": list(to), "rows": 4, "length": 64}
    flags |= {"effort": "low"}
    return Plan.from_flags(None, flags | changes)


@dataclass(frozen=True)
class Walk:
    """What a walk left."""

    checkpoint: Checkpoint
    assignments: list[Assignment]
    work: Work
    digest: str

    def tensors(self, target: int = 0) -> dict[str, Tensor]:
        """Every tensor of one target, as a file would hold it."""
        member = self.assignments[target]
        names = self.checkpoint.tensors
        return {name: stored(self.work, self.checkpoint, member, name) for name in names}

    def model(self, target: int = 0) -> Model:
        """The rounded model, ready for an engine."""
        return Model(self.checkpoint.arch, self.tensors(target), self.checkpoint.tokenizer)

    def notes(self) -> list[str]:
        """What the user is told."""
        return [note for stage in self.work.stages.values() for note in stage.get("notes", [])]


def walk(plan: Plan, folder: Path, progress: Progress = silent) -> Walk:
    """Calibrate and round into a work folder (a begun one goes on), without an artifact."""
    checkpoint = open_checkpoint(plan.model)
    assignments = [assign(target, checkpoint.arch, plan.rules) for target in plan.targets]
    folder.mkdir(parents=True, exist_ok=True)
    work = Work(folder, "key")
    digest = quantize_model(plan, checkpoint, assignments, work, progress)
    return Walk(checkpoint, assignments, work, digest)


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Whether two sets of tensors hold the same bytes."""
    return left.keys() == right.keys() and all(
        left[name].block is right[name].block and np.array_equal(left[name].data, right[name].data)
        for name in left
    )
