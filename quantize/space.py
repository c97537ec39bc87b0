"""Disk space of a run: what it takes at most, known before any work."""

import math
import shutil

from quantize.checkpoint import Checkpoint
from quantize.measure import windows
from quantize.methods import METHODS
from quantize.passes import state_sets
from quantize.plan import EFFORTS, Assignment, Plan
from quantize.resume import Work
from runtime.errors import SpaceError

ENTRY = 1024
"""Bytes of a stored array beside its values: headers of zip and npy, its loss in the manifest."""


def weight_bytes(checkpoint: Checkpoint, assignment: Assignment) -> int:
    """Bytes of all tensors of a target; the container adds its header and the tokenizer."""
    total = 0.0
    for name, shape in checkpoint.tensors.shapes.items():
        block = assignment.types.get(name)
        total += math.prod(shape) * (block.bits / 8 if block else 4)
    return round(total)


def disk_bytes(
    plan: Plan, checkpoint: Checkpoint, assignments: list[Assignment], artifacts: int
) -> int:
    """Bytes on disk at most, of the stage that takes most.

    `artifacts`: bytes of the finished files. Before they are written the work folder holds a copy
    of their weights, a second one where tuning moves them, and hidden states.
    """
    shapes = checkpoint.tensors.shapes
    copies = sum(
        weight_bytes(checkpoint, assignment) + ENTRY * len(shapes) for assignment in assignments
    )
    if not METHODS[plan.method].calibrated:
        return artifacts + copies
    tuned = copies if EFFORTS[plan.effort].steps else 0
    states = 4 * plan.rows * plan.length * checkpoint.arch.hidden
    kept = 4 * plan.rows * plan.length + measured_bytes(plan, checkpoint)
    sets = state_sets(plan, assignments)
    walking = copies + sets * 2 * states + spilled(plan, sets * states)
    tuning = copies + tuned + 2 * spilled(plan, states)
    return kept + max(gradient_bytes(plan, checkpoint), walking, tuning, artifacts + copies + tuned)


def spilled(plan: Plan, states: int) -> int:
    """Bytes of hidden states that go to disk (see Work.room)."""
    return states if states > plan.max_ram * 2**30 else 0


def gradient_bytes(plan: Plan, checkpoint: Checkpoint) -> int:
    """Bytes on disk of the states before and after every layer, while gradients are taken."""
    arch = checkpoint.arch
    return spilled(plan, 4 * (arch.layers + 1) * windows(plan) * plan.length * arch.hidden)


def measured_bytes(plan: Plan, checkpoint: Checkpoint) -> int:
    """Bytes of what gradients leave: Hessians of the tables, and weights of tokens."""
    if not windows(plan):
        return 0
    arch = checkpoint.arch
    tables = 1 if arch.tied else 2
    weighed = arch.layers * len(checkpoint.family.stages) if EFFORTS[plan.effort].weigh else 0
    sizes = tables * arch.hidden**2 + weighed * plan.rows * plan.length
    return 4 * sizes + ENTRY * (tables + weighed)


def check_space(plan: Plan, needed: int, work: Work) -> None:
    """Raise EdgequantError when the disk cannot hold what is not there yet of `needed` bytes."""
    needed -= work.bytes()
    free = shutil.disk_usage(plan.output).free
    if free < needed:
        raise SpaceError(
            f"{plan.output} has {free / 1e9:.1f} GB free and the run needs about "
            f"{needed / 1e9:.1f} GB; free some, or choose another disk with -o."
        )
