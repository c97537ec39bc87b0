"""Gates: what an artifact must not fall short of, and what always makes it unfit."""

from dataclasses import dataclass, fields

from quantize.report import tokens
from quantize.report.baseline import increase_check, match, regressions
from quantize.report.checks import Check, limited, not_measured, sound
from quantize.report.metrics import Metrics
from quantize.report.report import ArtifactResult, GateValues, Report
from quantize.report.tensor_growth import changed_types


@dataclass(frozen=True)
class Figure:
    """A figure that a gate limits."""

    gate: str
    words: str
    digits: int
    of: str
    """The field of Metrics."""
    least: bool = False
    """Whether less is worse."""

    def check(self, metrics: Metrics, limit: float) -> Check:
        """Whether it keeps the limit."""
        value: float = getattr(metrics, self.of)
        failed = value < limit if self.least else value > limit
        sentence = (
            f"{self.words} {value:.{self.digits}f} is {'below' if self.least else 'above'} the "
            f"limit of {limit:g}"
        )
        name = self.gate.replace("_", "-")
        return limited(name, failed, [sentence], value, limit, asked=True)


FIGURES = (
    Figure("max_kl", "mean KL", 5, "kl"),
    Figure("max_kl_p99", "99% KL", 5, "kl_p99"),
    Figure("max_kl_p999", "99.9% KL", 5, "kl_p999"),
    Figure("min_top1", "top-1 agreement", 4, "top1", least=True),
    Figure("max_flipped", "share of flipped top tokens", 4, "flipped"),
    Figure("max_ppl_ratio", "perplexity ratio", 4, "ppl_ratio"),
)
"""In the order in which failures are told."""


@dataclass(frozen=True)
class Gates:
    """Limits; None = none."""

    max_kl: float | None = None
    min_top1: float | None = None
    max_ppl_ratio: float | None = None
    baseline: Report | None = None
    baseline_file: str | None = None
    max_image_kl: float | None = None
    max_kl_p99: float | None = None
    max_kl_p999: float | None = None
    max_flipped: float | None = None
    max_kl_increase: float | None = None

    def values(self) -> GateValues:
        """As the report tells them."""
        given = {f.name: getattr(self, f.name) for f in fields(GateValues)}
        return GateValues(**given | {"baseline": self.baseline_file})

    def checks(self, result: ArtifactResult) -> list[Check]:
        """Every gate that was asked for, and what came of it."""
        found = [
            figure.check(result.metrics, limit)
            for figure in FIGURES
            if (limit := getattr(self, figure.gate)) is not None
        ]
        return [*found, *self.image_checks(result), *self.baseline_checks(result)]

    def image_checks(self, result: ArtifactResult) -> list[Check]:
        """The same for text after images: that of all text, where they have none of their own."""
        limit = self.max_kl if self.max_image_kl is None else self.max_image_kl
        if result.images is None:
            why = "text after images was not measured, because its tensors are not read here"
            asked = self.max_image_kl is not None
            return [not_measured("max-image-kl", why, limit, asked=True)] if asked else []
        figure = Figure("max_image_kl", "after images mean KL", 5, "kl")
        return [] if limit is None else [figure.check(result.images, limit)]

    def baseline_checks(self, result: ArtifactResult) -> list[Check]:
        """The result against the baseline's of the same artifact."""
        if self.baseline is None:
            return []
        earlier, share = self.earlier(result), self.max_kl_increase
        if earlier is None:
            why = f"not in the baseline {self.baseline_file}, so not compared with it"
            asked = [("baseline", None), ("max-kl-increase", share)][: 1 + (share is not None)]
            return [not_measured(name, why, limit, asked=True) for name, limit in asked]
        found = regressions(result, earlier, share)
        return [*found, *([] if share is None else [increase_check(result, earlier, share)])]

    def earlier(self, result: ArtifactResult) -> ArtifactResult | None:
        """The baseline's result of the same artifact."""
        return match(self.baseline, {result.label, result.file}) if self.baseline else None

    def notes(self, result: ArtifactResult) -> tuple[str, ...]:
        """What must be known of a comparison with the baseline."""
        earlier = self.earlier(result)
        if earlier is None:
            return ()
        failed = f"its result in the baseline {self.baseline_file} had failed there"
        return (
            *changed_types(result.tensors, earlier.tensors),
            *[failed] * earlier.rejected,
        )


def integrity_checks(result: ArtifactResult, stored: tuple[Check, ...]) -> list[Check]:
    """What no artifact may have: broken tensors or logits, a tokenizer that does not round-trip."""
    broken = (
        f"it computes NaN or infinite logits for {result.broken_tokens:,} of "
        f"{result.metrics.tokens:,} tokens"
    )
    return [
        *stored,
        sound("logits", [broken] if result.broken_tokens else []),
        sound("tokenizer", tokens.failures(result.tokenizer)),
    ]
