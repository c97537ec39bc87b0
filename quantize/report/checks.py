"""Checks: every gate and every test of soundness by its name, and what came of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["passed", "failed", "not measured"]
"""What was not measured is never "passed"."""


@dataclass(frozen=True)
class Check:
    """One of them, for one artifact."""

    name: str
    """The gate's flag without its hyphens in front ("max-kl"), or what was looked at."""
    state: State
    value: float | None = None
    """What was measured; None where it is no number."""
    limit: float | None = None
    """The greatest or least value that passes."""
    told: tuple[str, ...] = ()
    """Sentences: how it failed, or why it was not measured."""
    asked: bool = False
    """Whether it is a gate of the user's: without a measurement the question has no answer."""


def sound(name: str, problems: Sequence[str]) -> Check:
    """A check that fails with a sentence for each problem."""
    return Check(name, "failed" if problems else "passed", told=tuple(problems))


def limited(
    name: str, failed: bool, told: Sequence[str], value: float, limit: float, asked: bool = False
) -> Check:
    """A check of a figure; `told` is what is said where it failed."""
    state: State = "failed" if failed else "passed"
    return Check(name, state, value, limit, tuple(told) if failed else (), asked)


def not_measured(name: str, why: str, limit: float | None = None, asked: bool = False) -> Check:
    """A check of which nothing is known, and why."""
    return Check(name, "not measured", None, limit, (why,), asked)


def failures(checks: Iterable[Check]) -> tuple[str, ...]:
    """A sentence for everything that failed."""
    return tuple(line for check in checks if check.state == "failed" for line in check.told)


def open_questions(checks: Iterable[Check]) -> tuple[str, ...]:
    """A sentence for each gate that the user asked for and that was not measured."""
    return tuple(
        f"--{check.name} was not measured: {line}"
        for check in checks
        if check.asked and check.state == "not measured"
        for line in check.told
    )


def by_label(results: Iterable[Any], lines_of: str) -> list[str]:
    """The sentences of results, each with the artifact's label before it."""
    return [f"{result.label}: {line}" for result in results for line in getattr(result, lines_of)]
