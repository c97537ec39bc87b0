"""A result against the same artifact's in an earlier report: all text, each domain, each tensor."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quantize.report.checks import Check, limited, not_measured
from quantize.report.metrics import standard_error
from quantize.report.report import (
    REJECTED,
    REMEDY,
    ArtifactResult,
    Evaluation,
    OriginalModel,
    Report,
    WindowScore,
    read_report,
)
from quantize.report.tensor_growth import tensor_check
from runtime.errors import CorruptFileError, InputError

SLACK_KL = 0.02
"""Share of the baseline's KL that a result may lose without failing: rounding of other machines."""
SLACK_TOP1 = 0.002
SLACK_PPL = 0.002
"""Of the logarithm of the perplexity ratio."""
NOISE = 1e-6
"""Nats: a KL that float32 makes of equal models."""
ERRORS = 2.0
"""Standard errors above which a difference over all text fails."""
LEAST = 3
"""Windows from which on a standard error says anything: that of two is off by a factor of ten."""
FREEDOM = np.array([2, 3, 4, 5, 6, 8, 10, 15, 30, np.inf])
STUDENT = np.array([9.92, 5.84, 4.60, 4.03, 3.71, 3.36, 3.17, 2.95, 2.75, 2.58])
"""The same of a domain, by windows - 1: Student's t, which 1 of 200 equal artifacts exceeds. There
are several domains with few windows each, and two errors would often be exceeded by chance."""


@dataclass(frozen=True)
class Measure:
    """A figure of windows, turned so that more is worse."""

    name: str
    words: str
    digits: int
    of: Callable[[WindowScore], float]
    shown: Callable[[float], float]
    """The mean as people are told it."""
    slack: Callable[[float], float]
    """What the mean may be above the baseline's, beside its standard errors."""


def measures(share: float) -> tuple[Measure, ...]:
    """What is compared; the mean KL may grow by a share."""
    return (
        Measure(
            "kl",
            "mean KL",
            5,
            lambda window: window.kl,
            float,
            lambda before: share * before + NOISE,
        ),
        Measure(
            "top1",
            "top-1 agreement",
            4,
            lambda window: 1 - window.top1,
            lambda flipped: 1 - flipped,
            lambda before: SLACK_TOP1,
        ),
        Measure(
            "ppl-ratio",
            "perplexity ratio",
            4,
            lambda window: window.nll - window.nll_original,
            lambda loss: float(np.exp(min(loss, 69.0))),  # JSON has no infinity
            lambda before: SLACK_PPL,
        ),
    )


def regressions(
    now: ArtifactResult, before: ArtifactResult, share: float | None = None
) -> list[Check]:
    """Checks of a result against an earlier one of the same artifact on the same windows.

    `share` is what its mean KL may grow by; None = SLACK_KL.
    """
    slack = measures(SLACK_KL if share is None else share)
    found = window_checks("baseline", now.windows, before.windows, slack, asked=True)
    domains = dict.fromkeys(window.domain for window in now.windows)
    for domain in domains if len(domains) > 1 else ():
        own = [place for place, window in enumerate(now.windows) if window.domain == domain]
        here, there = (tuple(side.windows[place] for place in own) for side in (now, before))
        found += window_checks(f"baseline on {domain}", here, there, slack)
    if now.image_windows and len(now.image_windows) == len(before.image_windows):
        name = "baseline after images"
        found += window_checks(name, now.image_windows, before.image_windows, slack)
    elif now.image_windows:
        why = "text after images is not in the baseline"
        found.append(not_measured("baseline after images", why))
    found.append(tensor_check(now.tensors, before.tensors))
    return found


def window_checks(
    name: str,
    now: tuple[WindowScore, ...],
    before: tuple[WindowScore, ...],
    compared: tuple[Measure, ...],
    asked: bool = False,
) -> list[Check]:
    """The windows are compared in pairs, so that what differs between windows does not count.

    A mean difference fails when it is above its standard errors and the slack together. `asked`
    marks those over all text.
    """
    place = name.removeprefix("baseline").strip()
    if len(now) < LEAST:
        count = "is 1 window" if len(now) == 1 else f"are {len(now)} windows"
        why = (
            f"{place or 'in all'} there {count}, and it takes {LEAST} to tell a regression from "
            "chance; use more --eval-rows or a shorter --eval-length"
        )
        return [not_measured(name, why, asked=asked)]
    times = ERRORS if asked else float(np.interp(1 - 1 / (len(now) - 1), 1 - 1 / FREEDOM, STUDENT))
    found = []
    for measure in compared:
        sides = [np.array([measure.of(window) for window in side]) for side in (now, before)]
        means = [float(side.mean()) for side in sides]
        allowed = times * (standard_error(sides[0] - sides[1]) or 0.0) + measure.slack(means[1])
        value, earlier, limit = map(measure.shown, (*means, means[1] + allowed))
        sentence = (
            f"{f'{place} ' * bool(place)}{measure.words} {value:.{measure.digits}f} is worse than "
            f"the baseline's {earlier:.{measure.digits}f}"
        )
        name_of_it = f"{name} {measure.name}"
        failed = means[0] - means[1] > allowed
        found.append(limited(name_of_it, failed, [sentence], value, limit, asked))
    return found


def notes_on(checks: list[Check]) -> tuple[str, ...]:
    """What of a comparison was not measured, beside the gates themselves: one for all domains."""
    open_parts = [c for c in checks if c.state == "not measured" and not c.asked]
    domains = [c.name.removeprefix("baseline on ") for c in open_parts if " on " in c.name]
    few = (
        f"too few windows to tell whether it got worse than the baseline on {', '.join(domains)} "
        "alone; a shorter --eval-length makes more"
    )
    return (*[few] * bool(domains), *(c.told[0] for c in open_parts if " on " not in c.name))


def increase_check(now: ArtifactResult, before: ArtifactResult, share: float) -> Check:
    """Whether the mean KL grew by more than a share of the baseline's."""
    kl, earlier = now.metrics.kl, before.metrics.kl
    grown = (kl - earlier) / max(earlier, NOISE)
    sentence = (
        f"mean KL {kl:.5f} is {grown:.1%} above the baseline's {earlier:.5f}, and the limit is "
        f"{share:.1%}"
    )
    return limited("max-kl-increase", grown > share, [sentence], grown, share, asked=True)


def match(baseline: Report, names: set[str]) -> ArtifactResult | None:
    """The baseline's result of the target or file called one of `names`."""
    for earlier in baseline.results:
        if names & {earlier.label, earlier.file, earlier.file.removesuffix(REJECTED)}:
            return earlier
    return None


def read_baseline(
    path: Path, original: OriginalModel, evaluation: Evaluation, artifacts: list[set[str]]
) -> Report:
    """An earlier report to compare with.

    `artifacts` holds the names of each one that will be judged: its label and its file's name.
    Raises EdgequantError when the report cannot be read, was made from another model or other
    text, or has none of the artifacts.
    """
    baseline = read_report(path)
    if baseline.original.fingerprint != original.fingerprint:
        raise InputError(
            f"baseline {path} was made from another model ({baseline.original.name}, "
            f"{baseline.original.fingerprint[:12]}) than {original.name} "
            f"({original.fingerprint[:12]}); make a baseline with this one."
        )
    if baseline.evaluation.sha256 != evaluation.sha256:
        then = baseline.evaluation
        raise InputError(
            f"baseline {path} was measured on other text ({then.data}, {then.windows} windows of "
            f"{then.length}) than now ({evaluation.data}, {evaluation.windows} of "
            f"{evaluation.length}); use the same --eval-data, --eval-rows and --eval-length."
        )
    if baseline.evaluation.images not in ("", evaluation.images):
        raise InputError(
            f"baseline {path} was measured on other images than this version has; make a baseline "
            "with this one."
        )
    if any(len(result.windows) != evaluation.windows for result in baseline.results):
        raise CorruptFileError(
            f"baseline {path} has results without a score for each of its {evaluation.windows} "
            f"windows; {REMEDY}."
        )
    if not any(match(baseline, names) for names in artifacts):
        wanted = ", ".join(sorted(set().union(*artifacts)))
        raise InputError(
            f"baseline {path} has no result for {wanted}; it has "
            f"{', '.join(result.label for result in baseline.results)}."
        )
    return baseline
