"""Experts: the statistics of one at a time, from what the router of a layer read.

A router gives each token to a few experts of many. What it read is kept, and whom it chose; from
that an expert's Hessians are computed when they are asked for, so that those of one are in memory.

Some experts see too few tokens for the Hessian of their inputs to mean anything. Such an expert
also learns from a sample of what the others read: the inputs of its gate and up as they are, those
of its down as it makes them itself.
"""

from collections.abc import Iterator, Mapping
from math import ceil
from typing import Literal

import numpy as np
import torch

from quantize.calibration.routed import Routed
from quantize.calibration.sums import add_gram, mirror
from quantize.run.cost import FLOAT
from runtime.archs import LayerSpec
from runtime.backends.torch import TorchOps
from runtime.forward import Layer, Observer, run_expert

ENOUGH = 2.0
"""Tokens that an expert needs for each channel of an input; measured by bench/moe.py."""
AT_ONCE = 2048
"""Tokens that go through an expert at a time."""
SHOWN = 8
"""Experts that a note names."""

Share = Literal["none", "few", "all"]
"""Who learns from tokens that the router gave to others: nobody, experts that saw few, or all, from
every token (--calibrate-all-experts)."""


def tokens_needed(width: int) -> int:
    """How many tokens must have been read through an input of so many channels."""
    return ceil(ENOUGH * width)


def expert_widths(spec: LayerSpec) -> list[int]:
    """Channels of each input of an expert; none in a layer without."""
    return [group.width for group in spec.groups if group.expert == 0]


class ExpertHessians(Mapping[str, torch.Tensor]):
    """Input group of an expert -> mean of x x^T, (in, in) float32; those of one expert are kept.

    `weights`: group without its expert -> weight of each token, (rows, T), of mean 1.
    """

    def __init__(
        self,
        ops: TorchOps,
        layer: Layer,
        routed: Routed,
        weights: Mapping[str, np.ndarray],
        share: Share = "few",
    ) -> None:
        self.ops, self.layer, self.routed, self.weights = ops, layer, routed, weights
        self.groups = {g.name: g for g in layer.spec.groups if g.expert is not None}
        self.share = share
        self.current: int | None = None
        self.found: dict[str, torch.Tensor] = {}

    def __getitem__(self, name: str) -> torch.Tensor:
        expert = self.groups[name].expert
        assert expert is not None
        if expert != self.current:
            self.found.clear()  # before the next ones are there
            self.found, self.current = self._hessians(expert), expert
        return self.found[name]

    def __contains__(self, name: object) -> bool:
        return name in self.groups  # without computing it

    def __iter__(self) -> Iterator[str]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def few(self, name: str) -> bool:
        """Whether the expert of a group saw too few tokens for that input."""
        group = self.groups[name]
        assert group.expert is not None
        return len(self.routed.of(group.expert)) < tokens_needed(group.width)

    def _hessians(self, expert: int) -> dict[str, torch.Tensor]:
        names = [name for name, group in self.groups.items() if group.expert == expert]
        sums = Sums({name: self.groups[name].width for name in names}, self.ops.device)
        if self.share == "all":
            self._pass(expert, sums, np.arange(self.routed.count), set(names))
            return sums.mean()
        self._pass(expert, sums, self.routed.of(expert), set(names))
        few = {name for name in names if self.few(name)}
        if few and self.share == "few":
            self._pass(expert, sums, self.sample, few, weighed=False)
        return sums.mean()

    @property
    def sample(self) -> np.ndarray:
        """Tokens at equal distances, enough for the widest input."""
        size = tokens_needed(max(expert_widths(self.layer.spec)))
        return np.arange(0, self.routed.count, max(1, self.routed.count // max(1, size)))

    def _pass(
        self, expert: int, sums: "Sums", tokens: np.ndarray, names: set[str], weighed: bool = True
    ) -> None:
        """Tokens (n,) go through an expert before the eyes of some of its sums."""
        for start in range(0, len(tokens), AT_ONCE):
            here = tokens[start : start + AT_ONCE]
            x = torch.from_numpy(self.routed.inputs[here]).to(self.ops.device)
            of = self.weights if weighed else {}
            given = {
                self.groups[name].stem: of[self.groups[name].stem].reshape(-1)[here]
                for name in names
                if self.groups[name].stem in of
            }
            sums.watch(names, given)
            run_expert(self.ops, self.layer, expert, x, sums)

    def notes(self) -> list[str]:
        """Which experts learn from tokens of others, a sentence."""
        every = self.layer.spec.mixture.router.outputs if self.layer.spec.mixture else 0
        if self.share == "all":
            return [f"all {every} experts learn from every token (--calibrate-all-experts)"]
        few = sorted({g.expert or 0 for name, g in self.groups.items() if self.few(name)})
        if self.share == "none" or not few:
            return []
        named = ", ".join(map(str, few[:SHOWN])) + (", ..." if len(few) > SHOWN else "")
        return [
            f"{len(few)} of {every} experts ({named}) saw under {ENOUGH:g} tokens for each channel "
            f"of an input, and learn from {len(self.sample)} of all tokens as well"
        ]


class Sums(Observer):
    """Adds up what an expert reads: name of an input group and its width -> (in, in)."""

    def __init__(self, widths: Mapping[str, int], device: torch.device) -> None:
        self.sums = {
            name: torch.zeros(width, width, device=device) for name, width in widths.items()
        }
        self.counts = dict.fromkeys(widths, 0)
        self.names: set[str] = set()
        self.weights: Mapping[str, np.ndarray] = {}

    def watch(self, names: set[str], weights: Mapping[str, np.ndarray]) -> None:
        """What comes next counts for these groups, times the weights (n,) of its tokens."""
        self.names, self.weights = names, weights

    def read(self, group: str, x: torch.Tensor) -> None:
        if group not in self.names:
            return
        weights = self.weights.get(group.partition(".")[0])
        weighed = x
        if weights is not None:
            weighed = x * torch.from_numpy(weights).to(x.device).reshape(-1, 1)
        self.counts[group] += len(x)
        add_gram(self.sums[group], weighed, x)

    def mean(self) -> dict[str, torch.Tensor]:
        """Group -> X^T X / tokens, (in, in) float32."""
        return {
            name: mirror(total).div_(max(1, self.counts[name])) for name, total in self.sums.items()
        }


def expert_bytes(spec: LayerSpec) -> int:
    """Bytes of one expert's Hessians, and of the tokens that go through it at a time."""
    widths = expert_widths(spec)
    return FLOAT * (sum(width**2 for width in widths) + 4 * AT_ONCE * max(widths, default=0))
