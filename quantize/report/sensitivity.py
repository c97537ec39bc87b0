"""What each layer and each tensor costs alone: the original with only that part replaced.

The hidden states before every layer are kept, so a change in layer l computes only layers l and up.
What that takes is known beforehand; a model for which it would take too long is measured by layer
only, or not at all, and the report says so.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from quantize.calibration.stream import forward
from quantize.progress import Progress
from quantize.report.metrics import score
from quantize.report.scan import Scan
from runtime.archs import Arch
from runtime.engine import OpsEngine
from runtime.forward import (
    Array,
    Layer,
    Observer,
    Ops,
    Positions,
    Weight,
    decoder_layer,
    embed,
    logits,
)
from runtime.model import Model

LIMIT = 4e12
"""Operations that may be spent on one artifact: about a minute on a laptop."""


@dataclass(frozen=True)
class Level:
    """How much is measured."""

    windows: int
    length: int
    by_tensor: bool

    def cost(self, arch: Arch) -> float:
        """Operations: two for each weight a token meets."""
        head, meets = arch.vocab * arch.hidden, 0
        behind = 0  # weights of this layer and of those after it
        for index in reversed(range(arch.layers)):
            behind += layer_weights(arch, index)
            changes = 1 + (len(arch.layer(index).linears) if self.by_tensor else 0)
            meets += changes * (behind + head)
        meets += 3 * (behind + head)  # the original, the embedding, the head
        return 2.0 * self.windows * self.length * meets


LEVELS = (Level(2, 256, True), Level(1, 128, True), Level(2, 256, False), Level(1, 128, False))
"""From the best to the cheapest."""


@dataclass(frozen=True)
class PartEffect:
    """One layer, or the embedding or the head, replaced alone."""

    part: str
    kl: float
    """Mean KL in nats a token."""


@dataclass(frozen=True)
class Sensitivity:
    """What was measured of one artifact."""

    how: str
    """A sentence: on what text, or why not."""
    parts: tuple[PartEffect, ...] = ()
    tensors: tuple[PartEffect, ...] = ()


def layer_weights(arch: Arch, index: int) -> int:
    """Weights of one decoder layer."""
    return sum(math.prod(shape) for shape in arch.layer(index).shapes.values())


def affordable(arch: Arch, limit: float) -> Level | None:
    """The best level within the limit."""
    return next((level for level in LEVELS if level.cost(arch) <= limit), None)


def sensitivity(
    original: OpsEngine,
    artifact: Model,
    found: Scan,
    windows: np.ndarray,
    progress: Progress,
    limit: float = LIMIT,
) -> Sensitivity:
    """KL of every layer, and of every tensor where that can be afforded, each replaced alone.

    `found` is the artifact's scan, without problems; windows (W, T) are token ids.
    """
    level = affordable(original.arch, limit)
    if level is None:
        return Sensitivity("not measured, because the model is too large.")
    ids = windows[: level.windows, : level.length]
    changed = [tensor.name for tensor in found.tensors if tensor.error]
    parts: dict[str, list[str]] = {}
    for name in changed:
        parts.setdefault(part_of(name), []).append(name)
    single = changed if level.by_tensor and not found.rescaled else []
    trial = Trial(original, artifact, ids)
    kl = []
    for names in [*parts.values(), *([name] for name in single)]:
        kl.append(trial.kl(names))
        progress("effect of each part", len(kl), len(parts) + len(single), names[-1])
    return Sensitivity(
        describe(level, found.rescaled, ids),
        tuple(map(PartEffect, parts, kl)),
        tuple(map(PartEffect, single, kl[len(parts) :])),
    )


def part_of(name: str) -> str:
    """The layer of a tensor ("blk.3"), or the name of a tensor outside the layers."""
    return ".".join(name.split(".")[:2]) if name.startswith("blk.") else name


def describe(level: Level, rescaled: bool, ids: np.ndarray) -> str:
    """A sentence for the report."""
    how = f"each part of the original replaced alone, on {ids.shape[0]} x {ids.shape[1]} tokens"
    if not level.by_tensor:
        return how + "; by layer only, because the model is large."
    if rescaled:
        why = "scales or channels were moved between the tensors of a layer"
        return f"{how}; by layer only, because {why}."
    return how + "."


@dataclass(frozen=True)
class Replaced:
    """The original's layers with some tensors, by their full names, replaced."""

    engine: OpsEngine
    changed: Mapping[str, Weight]

    @property
    def arch(self) -> Arch:
        return self.engine.arch

    def layer(self, index: int) -> Layer:
        """As the walk wants it."""
        layer, own = self.engine.layers[index], f"blk.{index}."
        new = {n.removeprefix(own): w for n, w in self.changed.items() if n.startswith(own)}
        return Layer(layer.spec, {**layer.weights, **new}, index)


@dataclass
class Listed:
    """Hidden states (1, T, D) of one window, before every layer and after the last."""

    values: list[Array]
    positions: Positions

    def advance(self, ops: Ops, layer: Layer, observer: Observer) -> None:
        x = self.values[-1]
        self.values.append(decoder_layer(ops, layer, x, self.positions))


class Last(Listed):
    """Of one window only the states behind the last layer."""

    def advance(self, ops: Ops, layer: Layer, observer: Observer) -> None:
        super().advance(ops, layer, observer)
        del self.values[0]


class Trial:
    """The original's hidden states on a few windows, and what they become with other weights."""

    def __init__(self, original: OpsEngine, artifact: Model, ids: np.ndarray) -> None:
        self.engine, self.artifact, self.ids = original, artifact, ids
        # an artifact may store a head of its own where the original's is the embedding
        self.weights = {
            artifact.arch.head: original.weights[original.arch.head],
            **original.weights,
        }
        self.positions = Positions(0, ids.shape[1])
        self.states: list[list[Array]] = []
        """Of each window: (1, T, D) before each layer and after the last."""
        self.reference: list[np.ndarray] = []
        """The original's logits (T, V) of each window."""
        for row in ids:
            x = embed(original.ops, original.arch, original.weights, row[None])
            states = Listed([x], self.positions)
            for _ in forward(original.ops, Replaced(original, {}), states):
                pass
            self.states.append(states.values)
            self.reference.append(self.logits(states.values[-1], self.weights))

    def kl(self, names: list[str]) -> float:
        """Mean KL in nats a token with the artifact's tensors `names` in the original's place."""
        engine = self.engine
        changed = {name: engine.ops.load(self.artifact.tensors[name]) for name in names}
        weights = {**self.weights, **changed}
        start = min(first_layer(name, engine.arch) for name in names)
        total = 0.0
        for row, before, reference in zip(self.ids, self.states, self.reference, strict=True):
            x = before[start]
            if "token_embd.weight" in changed:
                x = embed(engine.ops, engine.arch, weights, row[None])
            states = Last([x], self.positions)
            for _ in forward(engine.ops, Replaced(engine, changed), states, start=start):
                pass
            after = self.logits(states.values[-1], weights)
            total += float(score(reference, after, np.full(len(after), -1)).kl.mean())
        return total / len(self.ids)

    def logits(self, x: Array, weights: Mapping[str, Weight]) -> np.ndarray:
        """Logits (T, V) of last hidden states (1, T, D)."""
        ops = self.engine.ops
        return ops.numpy(logits(ops, self.artifact.arch, weights, x))[0]


def first_layer(name: str, arch: Arch) -> int:
    """The first layer that a change of this tensor reaches: `arch.layers` for the head."""
    if name.startswith("blk."):
        return int(name.split(".")[1])
    return 0 if name == "token_embd.weight" else arch.layers
