"""`quantize history`: the artifacts of many reports by time, where they can be compared."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from quantize.report.render import status, with_error
from quantize.report.report import REJECTED, ArtifactResult, Report, read_report
from quantize.report.written import MARKS
from runtime.errors import EdgequantError, InputError


@dataclass(frozen=True)
class Entry:
    """One artifact of one report."""

    time: str
    """When it was measured, or its report was written."""
    version: str
    artifact: str
    """Name of its file or folder, as it was called before a gate failed."""
    bytes: int
    bits_per_weight: float
    kl: float
    kl_se: float | None
    kl_p99: float
    flipped: float
    state: str
    report: str
    """Path, from the folder that was read."""


@dataclass(frozen=True)
class History:
    """Reports of one model on one text."""

    model: str
    text: str
    entries: tuple[Entry, ...]
    """By time."""
    notes: tuple[str, ...]
    """What was left out, in sentences."""

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def history(folder: Path) -> History:
    """Every report below a folder that is of the same model and text as the newest one.

    Raises InputError where there is no folder or no report in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give one that holds report.json files.")
    found, notes = list[tuple[str, str, Report]](), list[str]()
    for path in sorted(report_files(folder)):
        try:
            report = read_report(path)
        except EdgequantError as error:
            notes.append(f"left out: {error}")
            continue
        found.append((measured(report, path), path.relative_to(folder).as_posix(), report))
    if not found:
        told = f"; {notes[0]}" if notes else ", such as a run leaves beside its artifacts."
        raise InputError(f"there is no report to read in {folder}{told}")
    found.sort(key=lambda item: (datetime.fromisoformat(item[0]), item[1]))
    newest = found[-1][2]
    entries = list[Entry]()
    for time, name, report in found:
        if why := difference(report, newest):
            notes.append(f"left out: {name} {why}")
        else:
            entries += [entry(time, name, report, result) for result in report.results]
    text = newest.evaluation.summary
    return History(newest.original.name, text, tuple(entries), tuple(notes))


def report_files(folder: Path) -> Iterator[Path]:
    """The JSON files below a folder that look like reports, whatever they are called."""
    for path in folder.rglob("*.json"):
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            if all(mark in text for mark in MARKS["report.json"]):
                yield path


def measured(report: Report, path: Path) -> str:
    """When a report was made; those of earlier versions do not say it, but their file was written
    then."""
    try:
        if datetime.fromisoformat(report.time).tzinfo:
            return report.time
    except ValueError:
        pass
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")


def difference(report: Report, newest: Report) -> str:
    """Why the figures of a report cannot be compared with the newest one's; "" where they can."""
    if report.original.fingerprint != newest.original.fingerprint:
        return (
            f"is of another model ({report.original.name}, {report.original.fingerprint[:12]}) "
            f"than the newest report ({newest.original.fingerprint[:12]})"
        )
    if report.evaluation.sha256 != newest.evaluation.sha256:
        then = report.evaluation
        return (
            f"was measured on other text ({then.data}, {then.windows} windows of {then.length}) "
            "than the newest report"
        )
    return ""


def entry(time: str, name: str, report: Report, result: ArtifactResult) -> Entry:
    """One artifact of a report, which is called `name` in the folder that was read."""
    metrics = result.metrics
    return Entry(
        time=time,
        version=report.version,
        artifact=result.file.removesuffix(REJECTED),
        bytes=result.bytes,
        bits_per_weight=result.bits_per_weight,
        kl=metrics.kl,
        kl_se=metrics.kl_se,
        kl_p99=metrics.kl_p99,
        flipped=metrics.flipped,
        state=status(result),
        report=name,
    )


def table(found: History) -> RenderableType:
    """A line for each artifact of each report, by time."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("time", "version", "artifact"):
        shown.add_column(name, overflow="fold")
    for name in ("bytes", "bits", "KL", "99% KL", "flipped"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("gates")
    shown.add_column("report", overflow="fold")
    for item in found.entries:
        shown.add_row(
            item.time,
            item.version,
            Text(item.artifact),
            f"{item.bytes:,}",
            f"{item.bits_per_weight:.2f}",
            with_error(item.kl, item.kl_se),
            f"{item.kl_p99:.5f}",
            f"{item.flipped:.2%}",
            item.state,
            Text(item.report),
        )
    head = f"{found.model} on {found.text}: KL in nats a token ± standard error."
    return Group(shown, *map(Text, (head, *found.notes)))
