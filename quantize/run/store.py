"""What a run keeps in its work folder. Every name in there is made here.

    calibration.npz                    token windows and their domains
    statistics.npz                     what the gradients say (sensitivity.py)
    scratch/NAME.npy                   large arrays of one step, on disk under --max-ram
    GROUP/hidden.npy, exact.npy        hidden states of a walk, on disk under --max-ram
    GROUP/routed.npy                   what a router read of them, on disk under --max-ram
    GROUP/hidden-7.npy, exact-7.npy    the same behind layer 7, from where a killed run goes on
    TARGET/blk.7.npz                   a rounded layer
    TARGET/output.weight.npz           a rounded tensor outside of the layers
    TARGET/tuned/...                   both after tuning
    TARGET/tuned-state.npz             where the tuning stands

GROUP is the name of targets that share a walk over the layers, TARGET a target's --to spelling.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from quantize.calibration.stream import Allocate
from quantize.plan.target import Target
from quantize.run.resume import Work

Which = Literal["hidden", "exact", "routed"]
"""States behind the rounded layers, those of the original model beside them, or what the router of
the current layer read."""
WHICH: tuple[Which, ...] = ("hidden", "exact", "routed")


def work_path(output: Path) -> Path:
    """The work folder of a run that writes into `output`."""
    return output / ".edgequant"


def folder_name(target: Target) -> str:
    """A target's folder in the work folder."""
    return target.label.replace(":", "-")


@dataclass(frozen=True)
class StoredStep:
    """A step that is recorded when it is finished, and the arrays that it stores."""

    work: Work
    name: str

    @property
    def done(self) -> bool:
        """Whether it was finished, in this run or in an earlier one."""
        return self.work.done(self.name)

    @property
    def facts(self) -> dict[str, Any]:
        """What `finish` recorded; nothing before that."""
        return self.work.stages.get(self.name, {})

    def finish(self, **facts: Any) -> None:
        """Record the step with what later ones and the report need of it (JSON values)."""
        self.work.finish(self.name, **facts)

    def save(self, arrays: dict[str, np.ndarray]) -> None:
        """Store arrays, all or none."""
        self.work.save(self.name, arrays)

    def load(self, key: str) -> np.ndarray:
        """One of the arrays. Raises EdgequantError when the file is missing or damaged."""
        return self.work.load(self.name, key)

    def drop(self) -> None:
        """Forget the arrays, which no later step needs."""
        self.work.drop(f"{self.name}.npz")


@dataclass(frozen=True)
class StoredStates:
    """Hidden states (rows, T, D) on their way through the layers."""

    work: Work
    name: str

    def allocate(self, shape: tuple[int, ...], max_ram: float) -> np.ndarray:
        """Where they are computed: in memory, or in a file when larger than `max_ram` GiB."""
        return self.work.allocate(self.name, shape, max_ram)

    def save(self, layer: int, values: np.ndarray) -> None:
        """Keep those behind a layer, all or nothing."""
        self.work.save_array(f"{self.name}-{layer}", values)

    def load(self, layer: int) -> np.ndarray:
        """Those behind a layer, mapped. Raises EdgequantError when they are damaged."""
        return self.work.open_array(f"{self.name}-{layer}")

    def drop(self, layer: int | None = None) -> None:
        """Forget those behind a layer, or the file in which they were computed."""
        self.work.drop(f"{self.name}.npy" if layer is None else f"{self.name}-{layer}.npy")


class Store(Work):
    """The work folder of one run, by what is in it."""

    @property
    def calibration(self) -> StoredStep:
        """Token windows, their domains, and the sha256 of their text."""
        return StoredStep(self, "calibration")

    @property
    def statistics(self) -> StoredStep:
        """What the gradients say; see sensitivity.py."""
        return StoredStep(self, "statistics")

    def states(self, group: str, which: Which) -> StoredStates:
        """Hidden states of the walk of a group of targets."""
        return StoredStates(self, f"{group}/{which}")

    def walked(self, group: str, layer: int) -> StoredStep:
        """The step that rounds a layer for every target of a group."""
        return StoredStep(self, f"{group}/blk.{layer}")

    def packed(self, target: Target, layer: int) -> StoredStep:
        """The rounded tensors of a layer, by their name within it."""
        return StoredStep(self, f"{folder_name(target)}/blk.{layer}")

    def table(self, target: Target, name: str) -> StoredStep:
        """A rounded tensor outside of the layers, by its name."""
        return StoredStep(self, f"{folder_name(target)}/{name}")

    def tuned(self, target: Target) -> StoredStep:
        """The step that tunes a target; its fact "accepted" says whether the result is kept."""
        return StoredStep(self, f"{folder_name(target)}/tuned")

    def tuned_layer(self, target: Target, layer: int) -> StoredStep:
        """The tensors of a layer after tuning, by their name within it."""
        return StoredStep(self, f"{folder_name(target)}/tuned/blk.{layer}")

    def tuned_table(self, target: Target, name: str) -> StoredStep:
        """A tensor outside of the layers after tuning."""
        return StoredStep(self, f"{folder_name(target)}/tuned/{name}")

    def tuning_state(self, target: Target) -> StoredStep:
        """Where the tuning of a target stands."""
        return StoredStep(self, f"{folder_name(target)}/tuned-state")

    def writing(self, target: Target) -> StoredStep:
        """Begun: from here on a file of the artifact's name is this run's own."""
        return StoredStep(self, f"writing/{target.label}")

    def written(self, target: Target) -> StoredStep:
        """The artifact of one target is complete."""
        return StoredStep(self, f"written/{target.label}")

    @property
    def all_written(self) -> StoredStep:
        """The artifacts of all targets are complete."""
        return StoredStep(self, "written")

    @property
    def judging(self) -> StoredStep:
        """Begun: from here on the reports are this run's own."""
        return StoredStep(self, "judging")

    @property
    def notes(self) -> list[str]:
        """What finished steps must tell the user."""
        return [note for facts in self.stages.values() for note in facts.get("notes", ())]

    @contextmanager
    def scratch(self, max_ram: float) -> Iterator[Allocate]:
        """Room for the large arrays of one step; their files go when the body ends well.

        An array larger than `max_ram` GiB lies in a file, which a killed run writes anew.
        """
        names: set[str] = set()

        def allocate(name: str, shape: tuple[int, ...]) -> np.ndarray:
            names.add(f"scratch/{name}")
            return self.allocate(f"scratch/{name}", shape, max_ram)

        yield allocate
        for name in names:
            self.drop(f"{name}.npy")
