"""Error compensation: aim at what the full-precision model computes, not at what a layer would say
to rounded inputs.

The layers before were rounded, so a linear reads X' where the original reads X. Least squares on
the calibration tokens says how its weight W must change for X' W'^T to come nearest to X W^T, as in
GPTAQ (Li et al. 2025) and Qronos (Zhang et al. 2025). The last linear of a layer goes further: what
it adds makes up for the error of the whole residual stream after the layer. GPTQ then rounds W'.

A change that only fits its own tokens would harm: each is learned on seven of eight windows, and
the others say what fraction of the step is taken, or none where it does not pay there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from quantize.calibration.hessian import Hessians
from quantize.calibration.routed import Routed
from quantize.calibration.rows import placed
from quantize.calibration.states import put_all
from quantize.calibration.stream import Prefix, Weights
from quantize.calibration.sums import Sums, add_product
from quantize.calibration.watch import behind
from quantize.calibration.workers import HERE, Batch, Workers
from quantize.methods.fixed_order import factor_in_place, solve_in_place, sum_of
from runtime.archs import InputGroup, LayerSpec
from runtime.backends.torch import TorchOps
from runtime.forward import NOBODY, Layer, Observer

EVERY = 8
"""One window in so many is held back."""
HELD = 4
"""Windows that are held back at most."""
STEP = 0.75
"""Of the fraction that is best for a layer's outputs: half to all of it measured nearly alike."""


@dataclass
class InputDifference:
    """How far a group's inputs X' (or the layer's outputs Y') are from the original's."""

    moment: torch.Tensor
    """(X - X')^T X' / tokens, (in, in), or (Y - Y')^T X' / tokens, (out, in)."""
    held: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    """X' (tokens, in), and X - X' (tokens, in) or Y - Y' (tokens, out), of held-back windows."""
    of_outputs: bool = False
    """Whether it is Y - Y'."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Out of another process its memory is only read: `compensated` changes that of outputs."""
        self.__dict__ |= state
        if self.of_outputs:
            self.moment = self.moment.clone()

    def add(
        self, error: torch.Tensor, x: torch.Tensor, weighed: torch.Tensor, held: list[slice]
    ) -> None:
        """Accumulate one batch: errors, inputs, token-weighted inputs.

        `held`: tokens of windows that are held back; `error` is zeroed there.
        """
        for tokens in held:
            self.held.append((x[tokens].clone(), error[tokens].clone()))
            error[tokens] = 0
        add_product(self.moment, error, weighed)

    def right_sides(self, weights: list[torch.Tensor]) -> list[torch.Tensor]:
        """What the change of each weight (out, in) times the Hessian should be, (out, in).

        The moment, as large as the Hessian, is gone then.
        """
        found = [self.moment if self.of_outputs else weight @ self.moment for weight in weights]
        del self.moment
        return found


class Inputs(Observer):
    """Keeps what some input groups of the original layer read last: (tokens, in)."""

    def __init__(self, groups: set[str]) -> None:
        self.groups = groups
        self.last: dict[str, torch.Tensor] = {}

    def read(self, group: str, x: torch.Tensor) -> None:
        if group in self.groups:
            self.last[group] = x.reshape(-1, x.shape[-1])


@dataclass(frozen=True)
class ComparedSums(Sums):
    """Those of a Compared."""

    moments: list[torch.Tensor]
    """Of `Compared.differences`, in their order."""
    held: list[list[tuple[torch.Tensor, torch.Tensor]]]
    """The same."""


class Compared(Hessians):
    """Hessians of the inputs after a rounded prefix, and their errors against the original's."""

    def __init__(
        self,
        spec: LayerSpec,
        device: torch.device,
        tokens: Mapping[str, np.ndarray] | None = None,
        routed: Routed | None = None,
    ) -> None:
        super().__init__(spec, device, tokens, routed)
        groups, last = compared(spec), spec.groups[-1]
        self.original = Inputs({group.name for group in groups})
        self.errors = {
            g.name: InputDifference(torch.zeros(g.width, g.width, device=device)) for g in groups
        }
        """Of every compared input group; of the last one that of the layer's outputs, where those
        are a linear function of it: no norm stands between them."""
        self.of_outputs: InputDifference | None = None
        self.factor = spec.output_factor
        if self.factor:
            del self.errors[last.name]
            outputs = spec.linears[last.linears[0]].outputs
            moment = torch.zeros(outputs, last.width, device=device)
            self.of_outputs = InputDifference(moment, of_outputs=True)
        self.held: list[slice] = []
        """Tokens of windows that are held back, among those of the moment."""
        self.last: tuple[torch.Tensor, torch.Tensor] | None = None
        """Inputs of the last group, and the same weighed."""

    def add(self, group: str, x: torch.Tensor, weighed: torch.Tensor) -> None:
        super().add(group, x, weighed)
        if group in self.errors:
            self.errors[group].add(self.original.last[group] - x, x, weighed, self.held)
        self.last = (x, weighed)

    def add_outputs(self, error: torch.Tensor) -> None:
        """How far the layer's outputs of the same batch are off, (tokens, D)."""
        assert self.last
        if self.of_outputs and self.factor:
            self.of_outputs.add(error / self.factor, *self.last, self.held)

    @property
    def differences(self) -> list[InputDifference]:
        """All that are summed, that of the outputs last."""
        return [*self.errors.values(), *([self.of_outputs] if self.of_outputs else [])]

    def batch_sums(self) -> ComparedSums:
        sums = super().batch_sums()
        moments = [difference.moment for difference in self.differences]
        held = [difference.held for difference in self.differences]
        return ComparedSums(sums.counts, sums.upper, moments, held)

    def add_sums(self, sums: Any) -> None:
        super().add_sums(sums)
        for difference, moment in zip(self.differences, sums.moments, strict=True):
            difference.moment += moment
        for difference, held in zip(self.differences, sums.held, strict=True):
            difference.held += [(x.clone(), error.clone()) for x, error in held]

    def finish(self, tokens: int) -> None:
        """Sums over so many tokens become means; the inputs of the last batch are let go."""
        self.original.last.clear()
        self.last = None
        if self.of_outputs:
            self.errors[list(self.sums)[-1]] = self.of_outputs
        for error in self.errors.values():
            error.moment /= tokens


def compared(spec: LayerSpec) -> tuple[InputGroup, ...]:
    """The input groups that both models read for the same tokens: a router gives experts others.

    What a router or a gate decides stays as the original has it (`Linear.precise`).
    """
    return tuple(
        group
        for group in spec.groups
        if group.expert is None and not spec.linears[group.linears[0]].precise
    )


@dataclass
class ComparedPrefix(Prefix):
    """States (rows, T, D) behind rounded layers, and those of the original model beside them."""

    exact: np.ndarray

    def advance(self, ops: TorchOps, layer: Layer, observer: Observer = NOBODY) -> None:
        """Run both through the original layer; only the original's are kept.

        The observer is a Compared.
        """
        assert isinstance(observer, Compared)
        rows, length = self.values.shape[:2]
        held = held_back(rows)
        places = list(placed(rows, length, self.tokens, self.images))
        batches = (
            Batch(
                (self.exact[here], self.values[here]),
                positions,
                tuple(row - here.start for row in range(here.start, here.stop) if row in held),
            )
            for here, positions in places
        )
        found = self.workers.through(compare, ops, layer, batches, observer)
        put_all(self.exact, (here for here, _ in places), found)
        observer.finish(max(1, rows - len(held)) * length)


def compare(ops: TorchOps, layer: Layer, batch: Batch, observer: Compared) -> np.ndarray:
    """A batch of both models through the original layer: the original's states behind it."""
    exact, values = batch.states
    length = exact.shape[1]
    observer.held = [slice(row * length, (row + 1) * length) for row in batch.held]
    truth = behind(ops, layer, exact, batch.positions, observer.original)
    found = behind(ops, layer, values, batch.positions, observer)
    observer.add_outputs((truth - found).flatten(0, 1))
    return truth.cpu().numpy()


def held_back(rows: int) -> set[int]:
    """Windows on which changes are tried, spread evenly; of a single window none."""
    count = min(HELD, max(1, rows // EVERY))
    return set(np.linspace(0, rows - 1, count + 2).astype(int)[1:-1]) if rows > 1 else set()


def compensate(
    weights: Weights,
    groups: tuple[InputGroup, ...],
    hessians: Mapping[str, torch.Tensor],
    errors: dict[str, InputDifference],
    damp: float,
    workers: Workers = HERE,
) -> None:
    """Put weights as they should be rounded in the place of the layer's; `errors` are used up.

    `groups`: those of `compared`.
    """
    names = [[f"{linear}.weight" for linear in group.linears] for group in groups]
    pieces = (
        (hessians[group.name], errors.pop(group.name), [weights[name] for name in own])
        for group, own in zip(groups, names, strict=True)
    )
    for own, moved in zip(names, workers.map(compensated, damp, pieces), strict=True):
        weights.update(zip(own, moved, strict=True))


def compensated(
    damp: float, hessian: torch.Tensor, error: InputDifference, weights: list[torch.Tensor]
) -> list[torch.Tensor]:
    """The weights (out, in) of one group as they should be rounded; `error` is used up.

    A Hessian that cannot be factored leaves them alone: rounding says so.
    """
    deltas = error.right_sides(weights)
    lower = hessian.clone()
    lower.diagonal().add_(damp * sum_of(lower.diagonal()) / len(lower))
    if not factor_in_place(lower):
        return weights
    for weight, delta in zip(weights, deltas, strict=True):
        solve_in_place(lower, delta.T)
        fraction = step_fraction(weight, delta, error)
        delta.mul_(STEP * fraction).add_(weight)
    return deltas


def step_fraction(
    weight: torch.Tensor,
    delta: torch.Tensor,
    error: InputDifference,
) -> float:
    """What fraction of a change (out, in), 0 to 1, is best on the windows that were held back."""
    along = size = 0.0
    for x, off in error.held:
        moved, wanted = x @ delta.T, off if error.of_outputs else off @ weight.T
        along += sum_of(moved * wanted)
        size += sum_of(moved.square())
    return min(1.0, max(0.0, along / size)) if size > 0 else 0.0
