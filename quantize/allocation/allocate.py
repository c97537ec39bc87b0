"""Bits where they count: a type for every tensor, so that the whole file has a given size or loss.

Every tensor has a few choices, each with its bytes and the KL it is predicted to add (see
fisher.py). Choosing one for each in a budget is a multiple-choice knapsack. Its relaxation is
solved by walking from the smallest file upwards, always taking the step that saves most KL a byte;
what is left of the budget goes to single changes and swaps that still help. The walk is also the
frontier: the least predicted KL at each size.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from quantize.methods import HessianFactor
from quantize.methods.fixed_order import sum_of
from quantize.methods.rtn import rtn
from runtime.quant_types import QuantType

SAMPLE = 192
"""Rows of a tensor that are rounded to know what a type costs it."""


@dataclass(frozen=True)
class Choice:
    """One type that a tensor could have."""

    type_name: str
    bytes: int
    kl: float
    """Predicted addition to the KL divergence, nats a token."""


Choices = Mapping[str, list[Choice]]
"""By tensor."""


@dataclass(frozen=True)
class Step:
    """A point of the frontier."""

    bytes: int
    kl: float
    types: Mapping[str, str]


def predicted_kl(
    weight: torch.Tensor, qtype: QuantType, factor: HessianFactor, rows: torch.Tensor
) -> float:
    """KL that storing sampled rows in a type adds, if they are rounded with error feedback.

    weight (n, in) are the rows that `sample` names, `rows` (out,) all mean squared gradients.
    GPTQ's loss is the sum of its rounding errors squared over diag(U)^2, which is `importance`, so
    plain rounding with these weights tells it without doing the feedback.
    """
    error = rtn(weight, qtype, factor).value - weight
    of_rows = (error.square() * factor.importance).sum(1)  # (n,)
    return 0.5 * sum_of(rows) * sum_of(of_rows) / len(of_rows)


def sample(rows: torch.Tensor, most: int = SAMPLE) -> torch.Tensor:
    """Indices of at most `most` rows, each with a chance in proportion to rows (out,).

    Rows at equal distances on the running sum: nothing is random, and a mean over them stands for
    the weighted mean over all.
    """
    count = min(most, len(rows))
    running = rows.double().clamp(min=1e-30).cumsum(0)
    places = (torch.arange(count, device=rows.device) + 0.5) / count * running[-1]
    return torch.searchsorted(running, places).clamp(max=len(rows) - 1)


def useful(choices: list[Choice]) -> list[Choice]:
    """The choices that no other beats in both bytes and KL, smallest first."""
    kept: list[Choice] = []
    for choice in sorted(choices, key=lambda c: (c.bytes, c.kl)):
        if not kept or choice.kl < kept[-1].kl:
            kept.append(choice)
    return kept


def hull(choices: list[Choice]) -> list[Choice]:
    """Of useful choices those on the lower convex hull: each step saves less KL a byte."""
    kept: list[Choice] = []
    for choice in choices:
        while len(kept) > 1 and rate(kept[-2], kept[-1]) <= rate(kept[-1], choice):
            kept.pop()
        kept.append(choice)
    return kept


def rate(one: Choice, other: Choice) -> float:
    """KL saved a byte by going from one choice to a larger one."""
    return (one.kl - other.kl) / (other.bytes - one.bytes)


def frontier(choices: Choices) -> list[Step]:
    """The best sets of types from the smallest to the largest, one step of one tensor apart."""
    hulls = {name: hull(useful(of)) for name, of in choices.items()}
    steps = [
        (-rate(small, large), name, at)
        for name, of in hulls.items()
        for at, (small, large) in enumerate(zip(of, of[1:], strict=False))
    ]
    # sorting by name as well keeps a tensor's own steps in order and the result the same everywhere
    chosen = {name: of[0] for name, of in hulls.items()}
    path = [total(chosen)]
    for _, name, at in sorted(steps, key=lambda step: (step[0], step[2], step[1])):
        chosen[name] = hulls[name][at + 1]
        path.append(total(chosen))
    return path


def total(chosen: Mapping[str, Choice]) -> Step:
    """A set of choices as one point."""
    return Step(
        sum(c.bytes for c in chosen.values()),
        sum(c.kl for c in chosen.values()),
        {name: c.type_name for name, c in chosen.items()},
    )


def within(choices: Choices, budget: int, path: list[Step] | None = None) -> Step:
    """The set of types with least predicted KL in `budget` bytes, up to the last few of them.

    `path`: the frontier, where it is known. Raises ValueError when even the smallest is larger.
    """
    best = None
    for step in path or frontier(choices):
        if step.bytes <= budget:
            best = step
    if best is None:
        raise ValueError("the budget is below the smallest size")
    by_type = {name: {c.type_name: c for c in of} for name, of in choices.items()}
    chosen = {name: by_type[name][type_name] for name, type_name in best.types.items()}
    options = {name: useful(of) for name, of in choices.items()}
    while better := improvement(chosen, options, budget - total(chosen).bytes):
        chosen |= better
    return total(chosen)


@dataclass(frozen=True)
class Change:
    """Another choice for one tensor."""

    bytes: int
    """More than now."""
    gain: float
    """KL less than now."""
    name: str
    choice: Choice


def improvement(
    chosen: Mapping[str, Choice], options: Choices, room: int
) -> dict[str, Choice] | None:
    """The change of one tensor, or of two, that fits the room and lowers the KL most."""
    changes = [
        Change(choice.bytes - now.bytes, now.kl - choice.kl, name, choice)
        for name, now in sorted(chosen.items())  # so that ties are broken alike everywhere
        for choice in options[name]
        if choice.type_name != now.type_name
    ]
    smaller = sorted((c for c in changes if c.bytes < 0), key=lambda c: c.bytes)
    sizes, cheapest = [c.bytes for c in smaller], cheapest_pairs(smaller)
    best, saved = None, 0.0
    for grown in sorted((c for c in changes if c.gain > 0), key=lambda c: -c.gain):
        if grown.gain <= saved:
            break
        if grown.bytes <= room:
            best, saved = {grown.name: grown.choice}, grown.gain
            continue
        pair = cheapest[bisect_right(sizes, room - grown.bytes)]
        back = next((change for change in pair if change.name != grown.name), None)
        if back and grown.gain + back.gain > saved:
            saved = grown.gain + back.gain
            best = {grown.name: grown.choice, back.name: back.choice}
    return best


def cheapest_pairs(changes: list[Change]) -> list[tuple[Change, ...]]:
    """For every count from 0 on: of so many first changes the one that loses least KL, and the one
    of another tensor that loses least."""
    out: list[tuple[Change, ...]] = [()]
    for change in changes:
        ranked = sorted((*out[-1], change), key=lambda c: -c.gain)  # of equal ones the first stays
        others = [c for c in ranked[1:] if c.name != ranked[0].name]
        out.append((ranked[0], *others[:1]))
    return out


def at_most(choices: Choices, kl: float) -> Step:
    """The smallest set of types with a predicted KL of at most `kl`, up to the last few bytes.

    The first step of the frontier that reaches it goes a whole tensor's step; between the one
    before and that one, budgets are halved. Raises ValueError when even the largest has more.
    """
    path = frontier(choices)
    at = next((at for at, step in enumerate(path) if step.kl <= kl), None)
    if at is None:
        raise ValueError("the loss is below the least possible")
    best = path[at]
    low, high = path[max(at - 1, 0)].bytes, best.bytes
    while high - low > 1:
        middle = (low + high) // 2
        found = within(choices, middle, path)
        if found.kl <= kl:
            best, high = found, found.bytes
        else:
            low = middle
    return best
