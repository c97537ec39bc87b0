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

import numpy as np
import torch

from quantize.calibration.hessian import Hessians, add_product
from quantize.calibration.layer_cost import at_once
from quantize.calibration.routed import Routed
from quantize.calibration.rows import placed
from quantize.calibration.stream import Prefix, Weights, fetch
from quantize.run.cost import FLOAT, Cost
from runtime.archs import InputGroup, LayerSpec
from runtime.backends.torch import TorchOps
from runtime.forward import NOBODY, Layer, Observer, decoder_layer

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


class Compared(Hessians):
    """Hessians of the inputs after a rounded prefix, and their errors against the original's."""

    def __init__(
        self,
        layer: Layer,
        device: torch.device,
        tokens: Mapping[str, np.ndarray] | None = None,
        routed: Routed | None = None,
    ) -> None:
        super().__init__(layer.spec, device, tokens, routed)
        groups, last = compared(layer.spec), layer.spec.groups[-1]
        self.original = Inputs({group.name for group in groups})
        self.errors = {
            g.name: InputDifference(torch.zeros(g.width, g.width, device=device)) for g in groups
        }
        """Of every compared input group; of the last one that of the layer's outputs, where those
        are a linear function of it: no norm stands between them."""
        self.of_outputs: InputDifference | None = None
        self.factor = layer.spec.output_factor
        if self.factor:
            del self.errors[last.name]
            outputs = len(layer.weights[f"{last.linears[0]}.weight"])
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
        for here, positions in placed(rows, length, self.tokens, self.images):
            at = [row - here.start for row in range(here.start, here.stop) if row in held]
            observer.held = [slice(row * length, (row + 1) * length) for row in at]
            batch = fetch(self.exact, here, ops.device)
            truth = decoder_layer(ops, layer, batch, positions, observer=observer.original)
            batch = fetch(self.values, here, ops.device)
            found = decoder_layer(ops, layer, batch, positions, observer=observer)
            self.exact[here] = truth.cpu().numpy()
            observer.add_outputs((truth - found).flatten(0, 1))
        observer.finish(max(1, rows - len(held)) * length)


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
) -> None:
    """Put weights as they should be rounded in the place of the layer's; `errors` are used up.

    A Hessian that cannot be factored leaves its group alone: rounding says so. `groups`: those of
    `compared`.
    """
    for group in groups:
        names = [f"{linear}.weight" for linear in group.linears]
        error = errors.pop(group.name)
        deltas = error.right_sides([weights[name] for name in names])
        lower = hessians[group.name].clone().T  # LAPACK's order, and in place: it may be gigabytes
        lower.diagonal().add_(damp * lower.diagonal().mean())
        failed = torch.empty((), dtype=torch.int32, device=lower.device)
        torch.linalg.cholesky_ex(lower, out=(lower, failed))
        if int(failed):
            continue
        for name, delta in zip(names, deltas, strict=True):
            right = delta.T
            torch.linalg.solve_triangular(lower, right, upper=False, out=right)
            torch.linalg.solve_triangular(lower.T, right, upper=True, out=right)
            fraction = step_fraction(weights[name], delta, error)
            weights[name] = weights[name] + STEP * fraction * delta


def step_fraction(
    weight: torch.Tensor,
    delta: torch.Tensor,
    error: InputDifference,
) -> float:
    """What fraction of a change (out, in), 0 to 1, is best on the windows that were held back."""
    along = size = 0.0
    for x, off in error.held:
        moved, wanted = x @ delta.T, off if error.of_outputs else off @ weight.T
        along += float((moved * wanted).sum())
        size += float(moved.square().sum())
    return min(1.0, max(0.0, along / size)) if size > 0 else 0.0


def beside_bytes(spec: LayerSpec, rows: int, length: int) -> int:
    """Bytes that a Compared keeps beside its Hessians: moments, windows held back, and the last
    inputs of both models."""
    groups, last = compared(spec), spec.groups[-1]
    moments = sum(moment_sizes(spec).values())
    widths = sum(group.width for group in groups)
    held = 2 * widths
    if spec.output_factor:
        held += spec.linears[last.linears[0]].outputs - last.width
    read = at_once(rows, length) * (widths + last.width)
    return FLOAT * (moments + len(held_back(rows)) * length * held + read)


def moment_sizes(spec: LayerSpec) -> dict[str, int]:
    """Numbers of the moment of each compared input group."""
    sizes = {group.name: group.width**2 for group in compared(spec)}
    if spec.output_factor:
        last = spec.groups[-1]
        sizes[last.name] = spec.linears[last.linears[0]].outputs * last.width
    return sizes


def compensation_cost(spec: LayerSpec, tokens: int) -> Cost:
    """Of sums of the errors and of `compensate` for one layer.

    The factor of a group's Hessian takes the place of its moment; beside it are the changes of its
    linears, of the last one also what it is made of.
    """
    memory, flops, sizes = 0, 0.0, moment_sizes(spec)
    for group in compared(spec):
        rows = [spec.linears[linear].outputs for linear in group.linears]
        changes = (sum(rows) + 2 * max(rows)) * group.width
        memory = max(memory, changes + max(0, group.width**2 - sizes[group.name]))
        flops += 2 * tokens * group.width**2 + group.width**3 / 3 + 4 * sum(rows) * group.width**2
    return Cost(memory=FLOAT * memory, flops=flops)
