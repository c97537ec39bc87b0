"""Aim at what the full-precision model computes, not at what a layer would say to rounded inputs.

The layers before were rounded, so a linear reads X' where the original reads X. Least squares on
the calibration tokens says how its weight W must change for X' W'^T to come nearest to X W^T, as in
GPTAQ (Li et al. 2025) and Qronos (Zhang et al. 2025). The last linear of a layer goes further: what
it adds makes up for the error of the whole residual stream after the layer. GPTQ then rounds W'.

A change that only fits its own tokens would harm: each is learned on seven of eight windows, and
the others say how much of it is taken, or none where it does not pay there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from quantize.calibrate import TOKENS, Watched, Weights, batches, fetch
from quantize.gram import mirror
from runtime.archs import Arch, Stage
from runtime.backends.torch import TorchOps
from runtime.forward import Layer, decoder_layer

EVERY = 8
"""One window in so many is held back."""
HELD = 4
"""Windows that are held back at most."""
PULL = 0.75
"""Of the share that is best for a layer's outputs: half to all of it measured nearly the same."""


@dataclass
class Drift:
    """How far a stage's inputs X' (or the layer's outputs Y') are from the original's."""

    moment: torch.Tensor
    """(X - X')^T X' / tokens, (in, in), or (Y - Y')^T X' / tokens, (out, in)."""
    held: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    """X' (tokens, in), and X - X' (tokens, in) or Y - Y' (tokens, out), of held-back windows."""

    def add(
        self, off: torch.Tensor, x: torch.Tensor, weighed: torch.Tensor, held: list[slice]
    ) -> None:
        """Some windows: what they are off by, their inputs, and those times their tokens' weights.

        `held`: tokens of windows that are held back; `off` is zeroed there.
        """
        for tokens in held:
            self.held.append((x[tokens].clone(), off[tokens].clone()))
            off[tokens] = 0
        self.moment.addmm_(off.T, weighed)


@dataclass
class Original(Layer):
    """The layer as the original model runs it; keeps what the stages read."""

    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    """First linear of a stage -> (tokens, in)."""

    def linear(self, ops: TorchOps, name: str, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        self.inputs[name] = x.reshape(-1, x.shape[-1])
        return super().linear(ops, name, x)


@dataclass
class Compared(Watched):
    """The layer after a rounded prefix; compares its inputs with the original's."""

    beside: Original | None = None
    drifts: dict[str, Drift] = field(default_factory=dict)
    """First linear of a stage -> drift of its inputs."""
    held: list[slice] = field(default_factory=list)
    """Tokens of windows that are held back, among those of the moment."""
    last: tuple[torch.Tensor, torch.Tensor] | None = None
    """Inputs of the last stage, and the same weighed."""

    def watch(self, name: str, x: torch.Tensor, weighed: torch.Tensor) -> None:
        super().watch(name, x, weighed)
        assert self.beside
        if name in self.drifts:
            self.drifts[name].add(self.beside.inputs[name] - x, x, weighed, self.held)
        self.last = (x, weighed)


def compare(
    ops: TorchOps,
    arch: Arch,
    weights: Weights,
    stages: tuple[Stage, ...],
    hidden: np.ndarray,
    exact: np.ndarray,
    tokens: Mapping[str, np.ndarray] | None = None,
) -> tuple[dict[str, torch.Tensor], dict[str, Drift]]:
    """Hessians as in `calibrate.statistics`, and the drift of each stage.

    hidden, exact: states before the layer, (rows, T, D), after the rounded prefix and in the
    original model; exact is advanced through the layer in place. The drift of the last stage is
    that of the layer's outputs.
    """
    rows, length = hidden.shape[:2]
    widths = {s.linears[0]: weights[f"{s.linears[0]}.weight"].shape[1] for s in stages}
    last = stages[-1].linears[0]
    original = Original(arch, weights)
    layer = Compared(arch, weights, tokens=tokens or {}, beside=original)
    for name, width in widths.items():
        layer.hessians[name] = torch.zeros(width, width, device=ops.device)
        if name != last:
            layer.drifts[name] = Drift(torch.zeros(width, width, device=ops.device))
    outputs = Drift(torch.zeros(arch.hidden, widths[last], device=ops.device))
    layer.tables = original.tables = arch.rope.tables(0, length, arch.head_dim)
    held = held_back(rows)
    for here in batches(rows, max(1, TOKENS // length)):
        at = [row - here.start for row in range(here.start, here.stop) if row in held]
        layer.held = [slice(row * length, (row + 1) * length) for row in at]
        truth = decoder_layer(ops, original, fetch(exact, here, ops.device), None)
        found = decoder_layer(ops, layer, fetch(hidden, here, ops.device), None)
        exact[here] = truth.cpu().numpy()
        assert layer.last
        outputs.add((truth - found).flatten(0, 1), *layer.last, layer.held)
    drifts = layer.drifts | {last: outputs}
    for one in drifts.values():
        one.moment /= max(1, rows - len(held)) * length
    return {n: mirror(h).div_(rows * length) for n, h in layer.hessians.items()}, drifts


def held_back(rows: int) -> set[int]:
    """Windows on which changes are tried, spread evenly; of a single window none."""
    count = min(HELD, max(1, rows // EVERY))
    return set(np.linspace(0, rows - 1, count + 2).astype(int)[1:-1]) if rows > 1 else set()


def aim(
    weights: Weights,
    stages: tuple[Stage, ...],
    hessians: Mapping[str, torch.Tensor],
    drifts: Mapping[str, Drift],
    damp: float,
) -> Weights:
    """The layer's weights as they should be rounded; all others as they are.

    A Hessian that cannot be factored leaves its stage alone: rounding says so.
    """
    out = dict(weights)
    for stage in stages:
        first = stage.linears[0]
        hessian = hessians[first].clone()
        hessian.diagonal().add_(damp * hessian.diagonal().mean())
        lower, failed = torch.linalg.cholesky_ex(hessian)
        if int(failed):
            continue
        drift, whole = drifts[first], stage is stages[-1]
        for name in (f"{linear}.weight" for linear in stage.linears):
            push = drift.moment if whole else weights[name] @ drift.moment
            change = torch.cholesky_solve(push.T, lower).T
            taken = PULL * share(weights[name], change, drift.held, whole)
            out[name] = weights[name] + taken * change
    return out


def share(
    weight: torch.Tensor,
    change: torch.Tensor,
    held: list[tuple[torch.Tensor, torch.Tensor]],
    whole: bool,
) -> float:
    """How much of a change (out, in) brings held-back windows nearest to the original: 0 to 1.

    `whole`: what is off are the outputs (tokens, out), else the inputs (tokens, in).
    """
    along = size = 0.0
    for x, off in held:
        moved, wanted = x @ change.T, off if whole else off @ weight.T
        along += float((moved * wanted).sum())
        size += float(moved.square().sum())
    return min(1.0, max(0.0, along / size)) if size > 0 else 0.0
