"""Sets of types against all sets there are, and samples against the shares they stand for."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize.allocation.allocate import (
    SAMPLE,
    Choice,
    Choices,
    Step,
    at_most,
    frontier,
    hull,
    improvement,
    predicted_kl,
    rate,
    sample,
    total,
    useful,
    within,
)
from quantize.methods import gptq
from runtime.quant_types import QUANT_TYPES

GRAIN = 64
"""Losses are multiples of its inverse, so that their sums are exact."""

tensor = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 200)), min_size=1, max_size=5).map(
    lambda pairs: [Choice(f"T{at}", size, kl / GRAIN) for at, (size, kl) in enumerate(pairs)]
)
"""The choices of one tensor; some may be worse than another in both."""
instances = st.lists(tensor, min_size=1, max_size=4).map(
    lambda tensors: {f"blk.{at}": choices for at, choices in enumerate(tensors)}
)


def every_set(choices: Choices) -> Iterator[Step]:
    """All combinations."""
    for chosen in itertools.product(*choices.values()):
        yield total(dict(zip(choices, chosen, strict=True)))


def least_kl(choices: Choices, budget: int) -> float:
    """Of all combinations in a budget."""
    return min(step.kl for step in every_set(choices) if step.bytes <= budget)


def chosen_by(choices: Choices, step: Step) -> dict[str, Choice]:
    """The choices that a step names."""
    return {
        name: next(c for c in of if c.type_name == step.types[name]) for name, of in choices.items()
    }


@given(tensor)
def test_useful_are_those_that_no_other_beats(choices: list[Choice]) -> None:
    kept = useful(choices)
    for choice in choices:
        beaten = any(
            (o.bytes, o.kl) != (choice.bytes, choice.kl)
            and o.bytes <= choice.bytes
            and o.kl <= choice.kl
            for o in choices
        )
        assert ((choice.bytes, choice.kl) in [(k.bytes, k.kl) for k in kept]) == (not beaten)
    assert kept == sorted(kept, key=lambda c: c.bytes)
    assert len({c.bytes for c in kept}) == len(kept)


@given(tensor)
def test_hull_holds_all_that_some_price_a_byte_makes_best(choices: list[Choice]) -> None:
    options = useful(choices)
    kept = hull(options)
    assert (kept[0], kept[-1]) == (options[0], options[-1])
    rates = [rate(small, large) for small, large in itertools.pairwise(kept)]
    assert rates == sorted(set(rates), reverse=True)
    for small, large in itertools.pairwise(kept):
        for choice in options:  # none lies below a side
            line = small.kl - rate(small, large) * (choice.bytes - small.bytes)
            assert choice.kl >= line - 1e-9


@given(instances)
def test_the_frontier_goes_from_the_smallest_to_the_best_one_tensor_at_a_time(
    choices: dict[str, list[Choice]],
) -> None:
    path = frontier(choices)
    everything = list(every_set(choices))
    assert path[0].bytes == min(step.bytes for step in everything)
    assert path[-1].kl == min(step.kl for step in everything)
    assert path[-1].bytes == min(s.bytes for s in everything if s.kl == path[-1].kl)
    slopes = []
    for small, large in itertools.pairwise(path):
        assert sum(small.types[name] != large.types[name] for name in choices) == 1
        assert small.bytes < large.bytes
        assert small.kl > large.kl
        slopes.append((small.kl - large.kl) / (large.bytes - small.bytes))
    assert slopes == pytest.approx(sorted(slopes, reverse=True))


@given(instances)
def test_no_set_of_a_frontier_point_s_size_loses_less(choices: dict[str, list[Choice]]) -> None:
    for step in frontier(choices):
        assert step.kl == least_kl(choices, step.bytes)
        assert total(chosen_by(choices, step)) == step


@given(instances, st.floats(0, 1))
def test_within_is_as_close_to_the_optimum_as_the_frontier_s_next_step(
    choices: dict[str, list[Choice]], share: float
) -> None:
    path = frontier(choices)
    budget = int(path[0].bytes + share * (path[-1].bytes - path[0].bytes))
    found = within(choices, budget)
    assert found == total(chosen_by(choices, found))
    assert found.bytes <= budget
    at = max(at for at, step in enumerate(path) if step.bytes <= budget)
    least = path[at].kl
    if at + 1 < len(path):  # a part of the next step, if steps could be cut, fills the budget
        slope = (path[at].kl - path[at + 1].kl) / (path[at + 1].bytes - path[at].bytes)
        least -= slope * (budget - path[at].bytes)
    assert least - 1e-9 <= least_kl(choices, budget) <= found.kl <= path[at].kl


@given(instances, st.floats(0, 1))
def test_within_leaves_nothing_that_one_change_or_one_swap_would_better(
    choices: dict[str, list[Choice]], share: float
) -> None:
    path = frontier(choices)
    budget = int(path[0].bytes + share * (path[-1].bytes - path[0].bytes))
    found = within(choices, budget)
    for step in every_set(choices):
        if sum(step.types[name] != found.types[name] for name in choices) <= 2:
            assert step.bytes > budget or step.kl >= found.kl


@given(instances, st.integers(0, 40))
def test_improvement_is_the_best_change_of_one_or_two_tensors(
    choices: dict[str, list[Choice]], room: int
) -> None:
    chosen = {name: useful(of)[0] for name, of in choices.items()}
    before = total(chosen)
    near = [
        step
        for step in every_set(choices)
        if step.bytes <= before.bytes + room
        and sum(step.types[name] != before.types[name] for name in choices) <= 1
    ]
    better = improvement(chosen, {name: useful(of) for name, of in choices.items()}, room)
    after = total(chosen | (better or {}))
    assert after.bytes <= before.bytes + room
    assert after.kl == min(step.kl for step in near)  # nothing can shrink, so swaps do not help
    assert (better is None) == (after.kl == before.kl)


def every_change(chosen: dict[str, Choice], choices: Choices) -> Iterator[dict[str, Choice]]:
    """Every change of one tensor or of two."""
    for count in (1, 2):
        for names in itertools.combinations(choices, count):
            for types in itertools.product(*(choices[name] for name in names)):
                yield dict(zip(names, types, strict=True))


@given(instances, st.integers(0, 60), st.randoms(use_true_random=False))
def test_improvement_finds_the_swap_of_largest_gain(
    choices: dict[str, list[Choice]], room: int, draw
) -> None:
    options = {name: useful(of) for name, of in choices.items()}
    chosen = {name: draw.choice(of) for name, of in options.items()}
    before = total(chosen)
    better = improvement(chosen, options, room)
    after = total(chosen | (better or {}))
    assert after.bytes <= before.bytes + room
    near = [total(chosen | change) for change in every_change(chosen, options)]
    # two that both grow come one after the other
    swaps = [s for s in near if s.bytes <= before.bytes + room and grown(chosen, options, s) <= 1]
    assert after.kl == min([before.kl, *(step.kl for step in swaps)])


def grown(chosen: dict[str, Choice], options: Choices, step: Step) -> int:
    """How many tensors have more bytes in a step."""
    types = {
        name: next(c for c in options[name] if c.type_name == step.types[name]) for name in chosen
    }
    return sum(types[name].bytes > chosen[name].bytes for name in chosen)


def test_a_swap_pays_where_no_change_fits() -> None:
    options = {
        "a": [Choice("small", 10, 5.0), Choice("large", 20, 1.0)],
        "b": [Choice("small", 10, 3.0), Choice("large", 18, 1.0)],
    }
    chosen = {"a": options["a"][0], "b": options["b"][1]}
    assert improvement(chosen, options, 1) is None
    swapped = {"a": options["a"][1], "b": options["b"][0]}
    assert improvement(chosen, options, 2) == swapped


@given(instances, st.floats(0, 1))
def test_at_most_is_below_the_loss_and_less_than_one_step_above_the_smallest(
    choices: dict[str, list[Choice]], share: float
) -> None:
    path = frontier(choices)
    limit = path[-1].kl + share * (path[0].kl - path[-1].kl)
    found = at_most(choices, limit)
    assert found == total(chosen_by(choices, found))
    assert found.kl <= limit
    first = next(at for at, step in enumerate(path) if step.kl <= limit)
    least = min(step.bytes for step in every_set(choices) if step.kl <= limit)
    assert (path[first - 1].bytes if first else 0) <= least <= found.bytes <= path[first].bytes


def test_at_most_takes_a_smaller_set_between_two_points_of_the_frontier() -> None:
    choices = {
        "large": [Choice("Q2", 100, 8.0), Choice("Q8", 200, 0.0)],
        "small": [Choice("Q2", 10, 1.0), Choice("Q8", 40, 0.0)],
    }
    assert [step.bytes for step in frontier(choices)] == [110, 210, 240]
    assert at_most(choices, 8.5).bytes == 140
    assert at_most(choices, 1.0).bytes == 210


@settings(max_examples=50)
@given(instances, st.randoms(use_true_random=False))
def test_the_order_of_the_tensors_changes_nothing(
    choices: dict[str, list[Choice]], shuffle
) -> None:
    names = list(choices)
    shuffle.shuffle(names)
    other = {name: choices[name] for name in names}
    assert frontier(other) == frontier(choices)
    budget = (frontier(choices)[0].bytes + frontier(choices)[-1].bytes) // 2
    assert within(other, budget) == within(choices, budget)


def test_equal_steps_are_taken_in_the_order_of_the_names() -> None:
    pair = [Choice("Q4", 10, 2.0), Choice("Q8", 20, 1.0)]
    for names in ("abc", "cba"):
        path = frontier({name: pair for name in names})
        grown = [sorted(n for n, kind in step.types.items() if kind == "Q8") for step in path]
        assert grown == [[], ["a"], ["a", "b"], ["a", "b", "c"]]


def test_what_cannot_be_reached_is_refused() -> None:
    choices = {"a": [Choice("Q4", 10, 2.0), Choice("Q8", 20, 1.0)]}
    with pytest.raises(ValueError, match="the budget is below the smallest size"):
        within(choices, 9)
    with pytest.raises(ValueError, match="the loss is below the least possible"):
        at_most(choices, 0.9)


@pytest.mark.parametrize("count", [7, SAMPLE, 1000])
def test_rows_are_picked_in_proportion(count: int) -> None:
    rows = torch.rand(count, generator=torch.Generator().manual_seed(count)) ** 4
    rows[3] = 0
    picked = torch.bincount(sample(rows), minlength=count)
    taken = min(SAMPLE, count)
    assert int(picked.sum()) == taken
    assert picked[3] == 0
    expected = taken * rows.double() / rows.double().sum()
    assert float((picked - expected).abs().max()) < 1


def test_alike_rows_are_picked_once_each_and_dead_ones_like_alike_ones() -> None:
    everyone = torch.arange(50)
    assert torch.equal(sample(torch.full((50,), 0.3)), everyone)
    assert torch.equal(sample(torch.zeros(50)), everyone)


@pytest.mark.parametrize(
    ("kind", "least"), [("Q4_0", 0.85), ("INT4_32", 0.85), ("Q4_K", 0.7), ("Q2_K", 0.5)]
)
def test_predicted_kl_is_about_what_error_feedback_then_costs(kind: str, least: float) -> None:
    # a super-block is fitted once, before feedback moves its later columns out of the fitted range:
    # under inputs as correlated as these it loses more than plain rounding tells
    draw = torch.Generator().manual_seed(1)
    mixing = torch.randn(256, 256, generator=draw) / 8 + torch.eye(256)
    x = torch.randn(2000, 256, generator=draw) @ mixing
    hessian = x.T @ x / len(x)
    weight = torch.randn(400, 256, generator=draw)
    rows = torch.rand(400, generator=draw) ** 3
    factor = gptq.factor(hessian, 0.01)
    predicted = predicted_kl(weight[sample(rows)], QUANT_TYPES[kind], factor, rows)
    error = gptq.gptq(weight, QUANT_TYPES[kind], factor).value - weight
    real = 0.5 * float((rows * ((error @ hessian) * error).sum(1)).sum())
    assert least < predicted / real < 1.1
