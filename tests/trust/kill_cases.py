"""What is done to runs, and what must be true after it: see `Trial.settle`."""

import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.trust.kill_launch import Disturbance, Outcome, launch
from tests.trust.kill_power import LOSSES, cut

EXISTS = "exists; use --overwrite"
Files = dict[str, bytes]


def files(folder: Path) -> Files:
    """Every file below a folder, by its path in it."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def part(content: Files, name: str) -> Files:
    """An artifact: the file of that name, or those of the folder."""
    return {path: data for path, data in content.items() if path.split("/")[0] == name}


@dataclass
class Subject:
    """A plan, and what its undisturbed run makes."""

    name: str
    model: Path
    flags: dict[str, Any]
    folder: Path
    """Of all trials."""
    old: Path | None = None
    """Artifacts that are there before, for a plan that overwrites."""
    expected: Files = field(default_factory=dict)
    operations: int = 0
    seconds: float = 0.0

    def prepare(self) -> None:
        """Run it undisturbed."""
        self.folder.mkdir()
        trial, begun = Trial(self, "whole"), time.monotonic()
        done = trial.run()
        assert not done.error, done.error
        assert not done.trace, done.trace
        self.seconds = time.monotonic() - begun
        self.expected, self.operations = files(trial.output), done.operations

    @property
    def artifacts(self) -> set[str]:
        """Names at the top of the output."""
        return {path.split("/")[0] for path in self.expected}


class Trial:
    """Runs of a subject into one folder, and the faults that were found."""

    def __init__(self, subject: Subject, name: str) -> None:
        self.subject, self.place = subject, subject.folder / name
        self.output, self.runs = self.place / "out", 0
        self.flags = {"model": str(subject.model), **subject.flags}
        self.place.mkdir()
        if subject.old:
            shutil.copytree(subject.old, self.output)
        self.faults: list[str] = []
        self.told = ""
        """The sentence of a run that was refused."""

    def run(self, what: str = "", at: int = 0, **flags: Any) -> Outcome:
        """One run; a traceback is a fault."""
        self.runs += 1
        flags = {"to": self.flags["to"], **self.flags, **flags}
        found = launch(flags, self.output, self.journal, Disturbance(what, at))
        if found.trace:
            self.faults.append(found.trace)
        return found

    @property
    def journal(self) -> Path:
        return self.place / f"{self.runs}.journal"

    def whole(self, expected: Files | None = None) -> None:
        """Each artifact is the old one, the new one or not there."""
        now, new = files(self.output), expected or self.subject.expected
        old = files(self.subject.old) if self.subject.old else {}
        for name in self.subject.artifacts:
            there = part(now, name)
            if there not in (part(old, name), part(new, name)):
                self.faults.append(f"{name} is neither the old nor the new one")

    def settle(self, expected: Files | None = None) -> None:
        """Run it to its end: the same bytes as undisturbed, and nothing else is left."""
        expected = expected or self.subject.expected
        self.whole(expected)
        done = self.run()
        if EXISTS in done.error and not (self.output / ".edgequant" / "manifest.json").exists():
            # all was done but for the removal of the work folder, whose manifest goes last
            found = files(self.output)
            if all(found.get(name) == data for name, data in expected.items()):
                done = self.run(overwrite=True)
        self.told = done.error
        if done.error:
            self.faults.append(done.error)
        elif (found := files(self.output)) != expected:
            names = sorted({*found, *expected})
            wrong = [name for name in names if found.get(name) != expected.get(name)]
            self.faults.append(f"not as undisturbed: {wrong}")
        left = [path.name for path in self.output.iterdir()] if self.output.exists() else []
        if extra := sorted(set(left) - self.subject.artifacts):
            self.faults.append(f"left behind: {extra}")

    def verdict(self) -> list[str]:
        """The faults; the folder of a trial without any is removed."""
        if not self.faults:
            shutil.rmtree(self.place)
        return self.faults


Kind = Callable[[Trial, random.Random], None]
KINDS: dict[str, Kind] = {}
"""Name -> what is done to a trial."""


def kind(name: str) -> Callable[[Kind], Kind]:
    """Register a kind."""

    def register(function: Kind) -> Kind:
        KINDS[name] = function
        return function

    return register


def any_operation(trial: Trial, draw: random.Random) -> int:
    return draw.randint(1, trial.subject.operations)


@kind("kill at an operation")
def kill(trial: Trial, draw: random.Random) -> None:
    trial.run("kill", any_operation(trial, draw))
    trial.settle()


@kind("kill at a random moment")
def kill_later(trial: Trial, draw: random.Random) -> None:
    trial.run("later", int(draw.uniform(0, 1000 * trial.subject.seconds)))
    trial.settle()


@kind("kill, and kill the resumed run")
def kill_twice(trial: Trial, draw: random.Random) -> None:
    at = any_operation(trial, draw)
    trial.run("kill", at)
    trial.whole()
    trial.run("kill", draw.randint(1, max(1, trial.subject.operations - at)))
    trial.settle()


@kind("power cut")
def power_cut(trial: Trial, draw: random.Random) -> None:
    trial.run("kill", any_operation(trial, draw))
    cut(trial.journal, trial.output, draw.choice(LOSSES))
    trial.settle()


@kind("full disk")
def full_disk(trial: Trial, draw: random.Random) -> None:
    told = trial.run("full", any_operation(trial, draw))
    if not told.error and not told.trace and told.operations < trial.subject.operations:
        trial.faults.append("a full disk was not told")
    trial.settle()


@kind("limit on file sizes")
def limited(trial: Trial, draw: random.Random) -> None:
    largest = max(map(len, trial.subject.expected.values()))
    told = trial.run("limit", draw.randint(largest // 20, largest - 1))
    if not told.error and not told.trace:
        trial.faults.append("a limit was not told")
    trial.settle()


@kind("clock step")
def clock_step(trial: Trial, draw: random.Random) -> None:
    trial.run("kill", any_operation(trial, draw))
    then = draw.choice([0, 2**31, int(time.time()) + 10**7])
    for folder in (trial.output, trial.subject.model):
        for path in folder.rglob("*"):
            os.utime(path, (then, then))
    trial.settle()


@kind("input changed between")
def changed(trial: Trial, draw: random.Random) -> None:
    model = trial.place / "changed"
    shutil.copytree(trial.subject.model, model)
    # the name of a model is in its artifacts: both are called as the first was
    model = model.rename(trial.place / trial.subject.model.name)
    trial.flags["model"] = str(model)
    was = trial.run("kill", any_operation(trial, draw))
    shard = model / "model-1.safetensors"
    before, data = shard.stat(), bytearray(shard.read_bytes())
    data[-2 * draw.randint(1, 2000)] ^= 1  # the lowest bit of a bf16
    shard.write_bytes(data)
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    other = Subject("changed", model, trial.subject.flags, trial.place / "other", trial.subject.old)
    other.prepare()
    begun = (trial.output / ".edgequant" / "manifest.json").exists()
    if not was.killed or not begun and files(trial.output) == trial.subject.expected:
        return  # it was over
    done = trial.run()
    if EXISTS in done.error:  # an artifact of the run before is no unfinished one of this
        done = trial.run(overwrite=True)
        begun = False
    if begun and not any("model-1.safetensors changed" in line for line in done.said):
        trial.faults.append(f"the changed file was not told: {done}")
    if files(trial.output) != other.expected:
        trial.faults.append("not as of the changed model alone")


@kind("two runs at once")
def two_runs(trial: Trial, draw: random.Random) -> None:
    other = os.fork()
    if other == 0:
        found = launch(trial.flags, trial.output, trial.place / "other.journal")
        known = not found.error or "another run is working" in found.error or EXISTS in found.error
        os._exit(0 if known and not found.trace else 1)
    time.sleep(draw.uniform(0, trial.subject.seconds / 2))
    mine = trial.run()
    if os.waitpid(other, 0)[1]:
        trial.faults.append("the other run failed")
    if mine.error and "another run is working" not in mine.error and EXISTS not in mine.error:
        trial.faults.append(mine.error)
    trial.whole()
    if files(trial.output) != trial.subject.expected:
        trial.settle()
