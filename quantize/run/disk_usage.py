"""What a run takes, as the sum of its steps, and whether the disk can hold it."""

import shutil

from quantize.calibration.sensitivity import statistics_cost
from quantize.run.cost import Cost, in_turn
from quantize.run.job import Job
from quantize.run.resume import Work
from quantize.run.text import text_cost
from quantize.run.walk_cost import walk_cost
from quantize.run.writing import writing_cost
from quantize.tuning.tuning_cost import tuning_cost
from runtime.errors import SpaceError


def run_cost(job: Job, artifacts: list[int]) -> Cost:
    """Of a whole run; `artifacts` are the bytes of the finished files. Judging is not in it."""
    steps = [text_cost(job), statistics_cost(job)]
    steps += [walk_cost(job, group) for group in job.groups]
    return in_turn([*steps, tuning_cost(job), writing_cost(job, artifacts)])


def check_space(needed: int, work: Work) -> None:
    """Raise EdgequantError when the disk cannot hold what is not there yet of `needed` bytes."""
    output = work.folder.parent
    needed -= work.bytes()
    free = shutil.disk_usage(output).free
    if free < needed:
        raise SpaceError(
            f"{output} has {shown_bytes(free)} free and the run needs about "
            f"{shown_bytes(needed)}; free some, or choose another disk with -o."
        )


def shown_bytes(count: int) -> str:
    """A size as people write it: "12.3 GB", "450.0 kB", "12 bytes"."""
    for unit, name in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (1000, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"
