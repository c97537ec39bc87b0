"""A report: frozen data, to JSON and back. `schema.json` beside this file describes the JSON."""

import dataclasses
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from export.stated import Difference
from quantize.report.checks import Check, by_label, open_questions
from quantize.report.frontier import FrontierEntry, Standing, standings
from quantize.report.metrics import Histogram, Metrics
from quantize.report.positions import PositionScore
from quantize.report.scan import TensorFact
from quantize.report.sensitivity import PartEffect
from quantize.report.tokens import TokenizerCheck
from runtime.errors import CorruptFileError, EdgequantError, InputError, UnsupportedError
from runtime.json_files import checked, json_value

SCHEMA_VERSION = 1
"""Raised when a reader of older reports would misread a new one."""
REJECTED = ".rejected"
"""Appended to the name of an artifact that failed."""
REMEDY = "make it again with this version"
"""What helps against a report that cannot be read."""


@dataclass(frozen=True)
class Evaluation:
    """The text that everything was measured on."""

    data: str
    """The spec, such as "builtin"; only its held-out part is used."""
    windows: int
    length: int
    sha256: str
    """Of the token ids: reports with the same one can be compared token by token."""
    summary: str
    images: str = ""
    """sha256 of the drawings and captions, "" where the model reads no images or has no room."""


@dataclass(frozen=True)
class OriginalModel:
    """The full-precision model."""

    name: str
    fingerprint: str
    family: str
    weights: int
    bytes: int
    """Of its weight files."""
    backend: str


@dataclass(frozen=True)
class GateValues:
    """The limits that were asked for; None = no limit."""

    max_kl: float | None = None
    min_top1: float | None = None
    max_ppl_ratio: float | None = None
    baseline: str | None = None
    """File name of the earlier report."""
    max_image_kl: float | None = None
    max_kl_p99: float | None = None
    max_kl_p999: float | None = None
    max_flipped: float | None = None
    max_kl_increase: float | None = None
    """Of the baseline's mean KL, a share."""


@dataclass(frozen=True)
class WindowScore:
    """Means over one window: what a later report is compared with, window by window."""

    domain: str
    kl: float
    top1: float
    nll_original: float
    nll: float


@dataclass(frozen=True)
class Expected:
    """A next token, and how likely each model finds it."""

    token: str
    original: float
    artifact: float


@dataclass(frozen=True)
class WorstToken:
    """A token at which the artifact strayed far."""

    kl: float
    domain: str
    window: int
    position: int
    context: str
    """The text before, up to and with the token at `position`."""
    following: str
    """What comes next in the text; empty at a window's end."""
    original: str
    """The original's most likely next token."""
    original_probability: float
    artifact: str
    """The artifact's most likely next token."""
    artifact_probability: float
    """What the artifact gives to the original's choice."""
    expected: tuple[Expected, ...] = ()
    """The five most likely next tokens of the original, then those of the artifact that are not
    among them; reports of earlier versions have none."""


@dataclass(frozen=True)
class GenerationSpeed:
    """Greedy generation, one token at a time, after a warm-up."""

    tokens: int
    tokens_per_second: float
    machine: str


@dataclass(frozen=True)
class ArtifactResult:
    """One artifact, measured."""

    label: str
    """The target ("gguf:Q4_K_M"), or the file's name."""
    file: str
    """Name of the file or folder, as it is left on disk."""
    container: str
    bytes: int
    """Of the file, or of all files of the folder."""
    bits_per_weight: float
    """Bits of all stored tensors over the original's number of weights."""
    backend: str
    metrics: Metrics
    domains: dict[str, Metrics]
    windows: tuple[WindowScore, ...]
    histogram: Histogram
    worst: tuple[WorstToken, ...]
    tensors: tuple[TensorFact, ...]
    parts: tuple[PartEffect, ...]
    """Effect of each layer, and of embedding and head, replaced alone."""
    sensitivity: str
    """How the effects of parts and tensors were measured, or why not."""
    tokenizer: TokenizerCheck | None
    """None when the artifact has no tokenizer."""
    speed: GenerationSpeed
    broken_tokens: int
    """Tokens at which the artifact's logits held NaN or infinity."""
    failures: tuple[str, ...]
    notes: tuple[str, ...]
    images: Metrics | None = None
    """Text after drawings, through the original's vision tower; None where the model has none."""
    image_windows: tuple[WindowScore, ...] = ()
    """Of each drawing; reports of earlier versions have none."""
    maker: str | None = None
    """The tool that made it, from its metadata; None where they do not tell."""
    positions: tuple[PositionScore, ...] = ()
    """By position in a window; reports of earlier versions have none."""
    differences: tuple[Difference, ...] = ()
    """What it says beside its weights otherwise than its original."""
    flipped: tuple[WorstToken, ...] = ()
    """Of the tokens at which both sides would go on differently those of greatest KL."""
    command: str | None = None
    """What makes it again, from its metadata; None where they do not tell."""
    checks: tuple[Check, ...] = ()
    """Every gate and test of soundness; reports of earlier versions have none."""

    @property
    def open_questions(self) -> tuple[str, ...]:
        """A sentence for each gate that was asked for and not measured."""
        return open_questions(self.checks)

    @property
    def rejected(self) -> bool:
        """Whether a gate failed."""
        return bool(self.failures)


@dataclass(frozen=True)
class Report:
    """Every artifact of a run against the original."""

    version: str
    """Of edgequant."""
    original: OriginalModel
    evaluation: Evaluation
    gates: GateValues
    results: tuple[ArtifactResult, ...]
    notes: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION
    time: str = ""
    """When it was measured, UTC, as in ISO 8601; "" in reports of earlier versions."""

    @property
    def failures(self) -> list[str]:
        """One sentence per failed gate, naming the artifact."""
        return by_label(self.results, "failures")

    @property
    def open_questions(self) -> list[str]:
        """One sentence per gate that was asked for and not measured, naming the artifact."""
        return by_label(self.results, "open_questions")

    @property
    def standings(self) -> list[Standing]:
        """Where each result stands on size against KL, in their order."""
        return standings(
            [
                FrontierEntry(
                    result.label,
                    result.bytes,
                    result.metrics.kl,
                    np.array([window.kl for window in result.windows]),
                    not result.rejected,
                )
                for result in self.results
            ]
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON values: what reading `text` gives."""
        out: dict[str, Any] = json.loads(self.text())
        return out

    def text(self) -> str:
        """The JSON text of report.json; all numbers are finite."""
        values = dataclasses.asdict(self)
        for result, stands in zip(values["results"], self.standings, strict=True):
            # follows from the rest, so reading a report back does not need it
            result |= {"frontier": stands.frontier, "beaten_by": stands.beaten_by}
        return json.dumps(values, ensure_ascii=False, indent=1, allow_nan=False) + "\n"

    @staticmethod
    def from_json(values: Any) -> "Report":
        """The inverse of `to_json`. Raises EdgequantError for another schema or broken values."""
        if isinstance(values, dict) and values.get("kind") == "scores":
            raise UnsupportedError(
                "this report compares scores of texts, not predictions of tokens, and is no "
                "baseline; use --min-rank for a model that scores texts, or give the report of "
                "one that predicts tokens."
            )
        found = values.get("schema_version") if isinstance(values, dict) else None
        if found != SCHEMA_VERSION:
            raise UnsupportedError(
                f"this report has schema version {found}, and this program reads "
                f"{SCHEMA_VERSION}; {REMEDY}."
            )
        try:
            json.dumps(values, allow_nan=False)
        except ValueError as error:
            raise CorruptFileError(
                f"this report holds a number that is not finite; {REMEDY}."
            ) from error
        return checked(values, Report, "this report", REMEDY)


def now() -> str:
    """The time of a report that is being made."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_report(path: Path) -> Report:
    """The report in a file. Raises EdgequantError when it cannot be read."""
    if not path.exists():
        raise InputError(f"report {path} does not exist; give a report.json of an earlier run.")
    try:
        return Report.from_json(json_value(path, REMEDY))
    except EdgequantError as error:
        said = str(error).replace("this report", str(path))
        raise type(error)(f"report {said}") from error
