"""Gates: what an artifact must not fall short of, and what always makes it unfit."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quantize.report import tokens
from quantize.report.metrics import standard_error
from quantize.report.report import (
    REMEDY,
    ArtifactResult,
    Evaluation,
    GateValues,
    OriginalModel,
    Report,
    WindowScore,
    read_report,
)
from runtime.errors import CorruptFileError, InputError

REJECTED = ".rejected"
"""Appended to the name of an artifact that failed."""
SLACK_KL = 0.02
"""Share of the baseline's KL that a result may lose without failing: rounding of other machines."""
SLACK_TOP1 = 0.002
SLACK_PPL = 0.002
"""Of the logarithm of the perplexity ratio."""


@dataclass(frozen=True)
class Gates:
    """Limits; None = none."""

    max_kl: float | None = None
    min_top1: float | None = None
    max_ppl_ratio: float | None = None
    baseline: Report | None = None
    baseline_file: str | None = None
    max_image_kl: float | None = None

    def values(self) -> GateValues:
        """As the report tells them."""
        return GateValues(
            self.max_kl,
            self.min_top1,
            self.max_ppl_ratio,
            self.baseline_file,
            self.max_image_kl,
        )

    def failures(self, result: ArtifactResult) -> list[str]:
        """A sentence for every limit that the result breaks."""
        m = result.metrics
        found = []
        if self.max_kl is not None and m.kl > self.max_kl:
            found.append(f"mean KL {m.kl:.5f} is above the limit of {self.max_kl:g}")
        if self.min_top1 is not None and m.top1 < self.min_top1:
            found.append(f"top-1 agreement {m.top1:.4f} is below the limit of {self.min_top1:g}")
        if self.max_ppl_ratio is not None and m.ppl_ratio > self.max_ppl_ratio:
            found.append(
                f"perplexity ratio {m.ppl_ratio:.4f} is above the limit of {self.max_ppl_ratio:g}"
            )
        found += self.image_failures(result)
        if earlier := self.earlier(result):
            found += regressions(result.windows, earlier.windows)
            if result.image_windows and earlier.image_windows:
                lines = regressions(result.image_windows, earlier.image_windows)
                found += [f"after images {line}" for line in lines]
        return found

    def image_failures(self, result: ArtifactResult) -> list[str]:
        """The same for text after images: the limit of all text, where they have none of their own.

        What was not measured breaks a limit that was asked for images alone.
        """
        limit = self.max_kl if self.max_image_kl is None else self.max_image_kl
        if result.images is None:
            unmeasured = "text after images was not measured, because its tensors are not read here"
            return [] if self.max_image_kl is None else [unmeasured]
        kl = result.images.kl
        if limit is None or kl <= limit:
            return []
        return [f"after images mean KL {kl:.5f} is above the limit of {limit:g}"]

    def earlier(self, result: ArtifactResult) -> ArtifactResult | None:
        """The baseline's result of the same artifact."""
        return match(self.baseline, {result.label, result.file}) if self.baseline else None

    def notes(self, result: ArtifactResult) -> tuple[str, ...]:
        """What of a result the baseline does not have."""
        if self.baseline is None:
            return ()
        earlier = self.earlier(result)
        if earlier is None:
            return (f"not in the baseline {self.baseline_file}, so not compared with it",)
        if result.image_windows and not earlier.image_windows:
            return (f"text after images is not in the baseline {self.baseline_file}",)
        return ()


def integrity_failures(result: ArtifactResult, problems: tuple[str, ...]) -> list[str]:
    """What no artifact may have: broken tensors or logits, a tokenizer that does not round-trip."""
    found = list(problems)
    if result.broken_tokens:
        found.append(
            f"it computes NaN or infinite logits for {result.broken_tokens:,} of "
            f"{result.metrics.tokens:,} tokens"
        )
    return found + tokens.failures(result.tokenizer)


def regressions(now: tuple[WindowScore, ...], before: tuple[WindowScore, ...]) -> list[str]:
    """Where a result is worse than an earlier one on the same windows.

    The windows are compared in pairs. A mean difference fails when it is above two of its standard
    errors plus a slack for the rounding of other machines and library versions (SLACK_*).
    """
    found = []
    kl = np.array([w.kl for w in now]), np.array([w.kl for w in before])
    if exceeds(kl[0] - kl[1], SLACK_KL * float(kl[1].mean())):
        found.append(f"mean KL {kl[0].mean():.5f} is worse than the baseline's {kl[1].mean():.5f}")
    top1 = np.array([w.top1 for w in now]), np.array([w.top1 for w in before])
    if exceeds(top1[1] - top1[0], SLACK_TOP1):
        found.append(
            f"top-1 agreement {top1[0].mean():.4f} is worse than the baseline's "
            f"{top1[1].mean():.4f}"
        )
    ratio = (
        np.array([w.nll - w.nll_original for w in now]),
        np.array([w.nll - w.nll_original for w in before]),
    )
    if exceeds(ratio[0] - ratio[1], SLACK_PPL):
        ratios = np.exp([side.mean() for side in ratio])
        found.append(
            f"perplexity ratio {ratios[0]:.4f} is worse than the baseline's {ratios[1]:.4f}"
        )
    return found


def exceeds(differences: np.ndarray, slack: float) -> bool:
    """Whether the mean of paired differences (W,) is above 2 standard errors and the slack."""
    return float(differences.mean()) > 2 * (standard_error(differences) or 0.0) + slack


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
