"""Hessians: the mean of x x^T of every input that linears share, summed while a layer computes.

Only one half of a symmetric matrix is computed. Where the processor multiplies pairs of bfloat16
faster than BLAS multiplies float32, inputs are rounded to bfloat16 (runtime/native/syrk_bf16.h);
sums are float32 everywhere.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch

from quantize.calibration.routed import Routed
from quantize.calibration.states import fetch
from quantize.calibration.stream import TOKENS, batches
from quantize.calibration.sums import Sums, add_gram, add_half, mirror, upper_half
from runtime.archs import Arch, InputGroup, LayerSpec
from runtime.archs.layer import EXPERTS, ROUTER
from runtime.backends.torch import TorchOps
from runtime.forward import Observer

GATE_UP = f"{EXPERTS}_gate_up."
"""What the names of experts' first input groups begin with."""


class Hessians(Observer):
    """Adds up the Hessian of every input group of a layer, but for those of experts.

    `tokens`: name of a group, without its expert -> weight of each token, (rows, T), of mean 1; all
    alike without one. `routed` is told what experts are calibrated by. `groups`: None means all.
    """

    def __init__(
        self,
        spec: LayerSpec,
        device: torch.device,
        tokens: Mapping[str, np.ndarray] | None = None,
        routed: Routed | None = None,
        groups: Collection[InputGroup] | None = None,
    ) -> None:
        groups = [g for g in (spec.groups if groups is None else groups) if g.expert is None]
        self.experts = {g.name: g.expert for g in spec.groups if g.expert is not None}
        self.sums = {g.name: torch.zeros(g.width, g.width, device=device) for g in groups}
        if not self.experts:  # their tokens come at the end of a layer
            self.until = groups[-1].name if groups else None
        self.tokens = tokens or {}
        self.counts: Counter[str] = Counter()
        """Tokens that each group has read."""
        self.router = routed
        self.chosen = np.arange(0)
        """Tokens of the batch that the current expert reads."""

    def routed(self, tokens: np.ndarray) -> None:
        self.chosen = tokens

    def read(self, group: str, x: torch.Tensor) -> None:
        """x (b, T, in): the next rows; of an expert (n, in)."""
        if group in self.experts:
            if self.router and group.startswith(GATE_UP):
                self.router.give(self.experts[group], self.chosen)
            return
        flat = x.reshape(-1, x.shape[-1])
        if self.router and group == ROUTER:
            self.router.read(flat)
        if group in self.sums:
            self.add(group, flat, self.weighed(group, flat))

    def add(self, group: str, x: torch.Tensor, weighed: torch.Tensor) -> None:
        """The next inputs of a group, (tokens, in), also times the weights of their tokens."""
        self.counts[group] += len(x)
        add_gram(self.sums[group], weighed, x)

    def weighed(self, group: str, x: torch.Tensor) -> torch.Tensor:
        """The next inputs (tokens, in) times the weights of their tokens."""
        if group not in self.tokens:
            return x
        start = self.counts[group]
        weights = self.tokens[group].reshape(-1)[start : start + len(x)]
        return x * torch.from_numpy(weights).to(x.device).reshape(-1, 1)

    def mean(self) -> dict[str, torch.Tensor]:
        """Group -> X^T X / tokens, (in, in) float32."""
        return {
            name: mirror(total).div_(max(1, self.counts[name])) for name, total in self.sums.items()
        }

    def batch_sums(self) -> Sums:
        """The sums so far, for `add_sums` of another observer of the same layer."""
        return Sums(dict(self.counts), {name: upper_half(H) for name, H in self.sums.items()})

    def add_sums(self, sums: Any) -> None:
        """Add the `batch_sums` of an observer of the next batch; nothing of them is kept."""
        self.counts.update(sums.counts)
        for name, half in sums.upper.items():
            add_half(self.sums[name], half)


def head_hessian(
    ops: TorchOps, arch: Arch, norm: torch.Tensor, hidden: np.ndarray, text: np.ndarray
) -> torch.Tensor:
    """X^T X / tokens of what the output head reads, (D, D): final states (rows, T, D), normed.

    Those of `text` (rows, T) count: nobody reads a prediction within an image.
    """
    length, width = hidden.shape[1:]
    hessian, predict = torch.zeros(width, width, device=ops.device), np.flatnonzero(text)
    for part in batches(len(predict), max(1, TOKENS // length) * length):
        x = ops.rmsnorm(fetch(hidden.reshape(-1, width), predict[part], ops.device), norm, arch.eps)
        add_gram(hessian, x, x)
    return mirror(hessian).div_(len(predict))
