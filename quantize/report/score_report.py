"""The report of models that score texts: what `report.py` is for models that predict tokens."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from export.stated import Difference
from quantize.report.checks import Check, by_label, limited, open_questions
from quantize.report.report import SCHEMA_VERSION, Evaluation, OriginalModel, Report
from quantize.report.scan import TensorFact
from quantize.report.score_metrics import ScoreMetrics
from quantize.report.tokens import TokenizerCheck


@dataclass(frozen=True)
class ScoreGates:
    """The limits that were asked for; None = no limit."""

    min_rank: float | None = None

    def checks(self, metrics: ScoreMetrics) -> list[Check]:
        """Every gate that was asked for, and what came of it."""
        if self.min_rank is None:
            return []
        sentence = f"rank correlation {metrics.rank:.5f} is below the limit of {self.min_rank:g}"
        failed = metrics.rank < self.min_rank
        return [limited("min-rank", failed, [sentence], metrics.rank, self.min_rank, asked=True)]


@dataclass(frozen=True)
class ScoreResult:
    """One artifact, measured."""

    label: str
    """The target ("onnx:int4"), or the file's name."""
    file: str
    """Name of the file or folder, as it is left on disk."""
    container: str
    bytes: int
    bits_per_weight: float
    """Bits of all stored tensors over the original's number of weights."""
    backend: str
    metrics: ScoreMetrics
    domains: dict[str, ScoreMetrics]
    scores: tuple[tuple[float, ...], ...]
    """Of each text, of each label; a score that is not finite is None in JSON."""
    tensors: tuple[TensorFact, ...]
    tokenizer: TokenizerCheck | None
    failures: tuple[str, ...]
    notes: tuple[str, ...]
    maker: str | None = None
    differences: tuple[Difference, ...] = ()
    """What it says beside its weights otherwise than its original."""
    checks: tuple[Check, ...] = ()
    """Every gate and test of soundness."""

    @property
    def open_questions(self) -> tuple[str, ...]:
        """A sentence for each gate that was asked for and not measured."""
        return open_questions(self.checks)

    @property
    def rejected(self) -> bool:
        """Whether a gate failed."""
        return bool(self.failures)


@dataclass(frozen=True)
class ScoreReport:
    """Every artifact of a run against the original."""

    version: str
    """Of edgequant."""
    original: OriginalModel
    evaluation: Evaluation
    every: int
    """A window is scored at its last token, and every so many tokens before it."""
    gates: ScoreGates
    scores: tuple[tuple[float, ...], ...]
    """The original's: of each text, of each label."""
    results: tuple[ScoreResult, ...]
    notes: tuple[str, ...] = ()
    kind: str = "scores"
    schema_version: int = SCHEMA_VERSION
    time: str = ""
    """When it was measured, UTC, as in ISO 8601."""

    @property
    def failures(self) -> list[str]:
        """One sentence per failed gate, naming the artifact."""
        return by_label(self.results, "failures")

    @property
    def open_questions(self) -> list[str]:
        """One sentence per gate that was asked for and not measured, naming the artifact."""
        return by_label(self.results, "open_questions")

    def to_json(self) -> dict[str, Any]:
        """As JSON values: what reading `text` gives."""
        out: dict[str, Any] = json.loads(self.text())
        return out

    def text(self) -> str:
        """The JSON text of report.json; all numbers are finite."""
        values = dataclasses.asdict(self)
        for result in values["results"]:
            result["scores"] = [[_finite(x) for x in row] for row in result["scores"]]
        return json.dumps(values, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


AnyReport = Report | ScoreReport
"""What artifacts of any model are judged by."""


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None
