"""`edgequant.quantize` and `edgequant.plan`: from a checkpoint to artifacts, or to a forecast."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from edgequant._settings import PlanSettings, Progress, StrPath, in_python, plan_of, silent
from runtime.errors import GateError

if TYPE_CHECKING:
    from quantize.plan import Plan
    from quantize.report.report import Report
    from quantize.report.score_report import ScoreReport
    from quantize.run.forecast import Forecast


@dataclass(frozen=True)
class Artifact:
    """A file or folder that was written."""

    target: str
    """Such as "gguf:Q4_K_M"."""
    path: Path
    """As it was left: NAME.rejected when a gate failed."""
    bytes: int
    """Of the file, or of all files of the folder."""


@dataclass(frozen=True)
class Result:
    """What `quantize` made."""

    artifacts: tuple[Artifact, ...]
    """In the order of `to`."""
    report: "Report | ScoreReport | None"
    """Every artifact measured against the original; None with check=False."""
    notes: tuple[str, ...]
    """What a user should know: fallbacks, what automatic targets chose, work that went on."""

    @property
    def failures(self) -> list[str]:
        """One sentence per failed gate, naming the artifact."""
        return self.report.failures if self.report else []


@in_python()
def quantize(
    model: StrPath | None = None,
    to: str | Sequence[str] = (),
    output: StrPath | None = None,
    *,
    plan: "Plan | StrPath | None" = None,
    progress: Progress | None = None,
    **settings: Unpack[PlanSettings],
) -> Result:
    """Quantize a checkpoint, write each artifact, and measure the files against the original.

    model: checkpoint folder, hub id or GGUF file; None = the bundled one. to: "CONTAINER:PRESET",
    one or several, such as "gguf:Q4_K_M". output: folder of artifacts and report; None = "dist".
    plan: a Plan, or a TOML file with its fields; the other arguments win over it. progress: called
    with the stage, steps done, steps in all and a status note. settings: fields of Plan.

    Nothing is printed. Stopped at any moment, the same call goes on after the last finished stage.
    Raises GateError, with the Result as its `result`, when a gate fails: the artifact is then
    called NAME.rejected. So it does when a gate cannot be measured. Raises another EdgequantError,
    before any work, for what cannot be done, and OSError for files that may not be read or written.
    """
    from quantize.plan import spelling
    from quantize.run import pipeline

    made = plan_of(model, to, output, plan, settings)
    notes: list[str] = []
    report = pipeline.run(made, progress or silent, notes.append)
    result = Result(_artifacts(made, report), report, tuple(map(spelling.in_python, notes)))
    if told := [*result.failures, *(report.open_questions if report else [])]:
        raise GateError(told, result)
    return result


@in_python()
def plan(
    model: StrPath | None = None,
    to: str | Sequence[str] = (),
    output: StrPath | None = None,
    *,
    plan: "Plan | StrPath | None" = None,
    progress: Progress | None = None,
    **settings: Unpack[PlanSettings],
) -> "Forecast":
    """What `quantize` would make of the same arguments, without writing anything.

    The type and bytes of every tensor, the exact bytes of each artifact, and memory (bytes), disk
    (bytes) and time (seconds) of the run. Errors as those of `quantize`, which come before work.
    """
    from quantize.run.forecast import forecast

    return forecast(plan_of(model, to, output, plan, settings), progress or silent)


def _artifacts(made: "Plan", report: "Report | ScoreReport | None") -> tuple[Artifact, ...]:
    """What a run left, under the names that the gates gave."""
    from quantize.run import pipeline

    if report is not None:
        return tuple(Artifact(r.label, made.output / r.file, r.bytes) for r in report.results)
    left = pipeline.artifacts(made)
    return tuple(Artifact(one["target"], Path(one["path"]), one["bytes"]) for one in left)
