"""The way of a run that keeps within --max-ram, or the sentence that says how much it needs."""

from collections.abc import Callable
from dataclasses import replace
from math import ceil

import export
from quantize.plan import Assignment, Target, assign
from quantize.run.cost import BASE_BYTES, Cost
from quantize.run.disk_usage import run_cost
from quantize.run.job import Job
from quantize.run.way import WAYS, Way
from runtime.errors import SpaceError

SLACK = 1.1
"""Times the forecast that a limit must allow: what the heap keeps for itself differs from run to
run, and one with a forecast of 0.95 GiB was seen to take 0.85 and 1.02."""


def limited(job: Job) -> Job:
    """The job on the fastest way that holds no more than its limit.

    Before types are known, those of automatic targets are taken for a preset's, which hardly
    changes what is held. Raises SpaceError, with the bytes that are needed, where none does.
    """
    if job.max_ram is None:
        return job
    known = job if job.assignments else job.assigned([usual(job, t) for t in job.targets])

    def cost(way: Way) -> Cost:
        return run_cost(replace(known, way=way), [])

    return replace(job, way=fitting(job.max_ram, cost, way_out(job)))


def fitting(max_ram: float, cost: Callable[[Way], Cost], other: str = "") -> Way:
    """The first way that takes, with the program, no more than `max_ram` GiB.

    Raises SpaceError with the least that is needed; `other` is what else would help.
    """
    costs = []
    for way in WAYS:
        found = cost(way)
        if SLACK * (BASE_BYTES + found.memory) <= max_ram * 2**30:
            return way
        costs.append(found)
    least = min(costs, key=lambda found: found.memory)
    needed = ceil(SLACK * (BASE_BYTES + least.memory) / 2**30 * 100) / 100
    if max_ram * 2**30 <= SLACK * BASE_BYTES:
        other = ""  # the program alone is too much
    raise SpaceError(
        f"--max-ram {max_ram:.3g}GiB is less than the {needed:g} GiB that {least.what} needs, with "
        f"{BASE_BYTES / 2**30:.2g} GiB of the program itself; allow --max-ram {needed:g}GiB{other}."
    )


def usual(job: Job, target: Target) -> Assignment:
    """The types of a target, of an automatic one those of its container's first preset."""
    if target.automatic:
        target = Target(target.container, next(iter(export.CONTAINERS[target.container].presets)))
    return assign(target, job.checkpoint.arch, job.rules)


def way_out(job: Job) -> str:
    """What else takes less memory."""
    if not job.recipe.method.calibrated:
        return ""
    less = job.calibration.windows or job.recipe.descent_iterations or job.recipe.rewrites
    return ", or use --effort low or --method rtn" if less else ", or use --method rtn"
