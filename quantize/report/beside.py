"""Artifacts of the same model in reports of sibling folders, for the chart of size against KL."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from quantize.report.report import ArtifactResult, Report, read_report
from runtime.errors import EdgequantError

MOST = 20
"""Artifacts of other folders that are drawn: more would hide each other."""


@dataclass(frozen=True)
class Beside:
    """What the sibling folders have."""

    results: tuple[ArtifactResult, ...] = ()
    """Labelled "LABEL (FOLDER)", the smallest first."""
    links: tuple[str, ...] = ()
    """The page of each, as a reference from the report's own folder."""
    notes: tuple[str, ...] = ()
    """What was left out, in sentences."""


def beside(folder: Path, report: Report) -> Beside:
    """Artifacts measured on the same text against the same original, in folders next to `folder`.

    Reports of other models are none of this one's business. One of this model on other text, or
    that cannot be read, is told and left out; what this report has itself is not repeated.
    """
    found: list[tuple[ArtifactResult, str]] = []
    notes: list[str] = []
    seen = {same(result) for result in report.results}
    for path in sibling_reports(folder):
        name = path.parent.name
        try:
            if report.original.fingerprint not in path.read_text("utf-8", errors="replace"):
                continue
            other = read_report(path)
        except (EdgequantError, OSError):
            notes.append(f"{name}/{path.name} cannot be read by this version; it is not drawn.")
            continue
        if other.original.fingerprint != report.original.fingerprint:
            continue
        if other.evaluation.sha256 != report.evaluation.sha256:
            notes.append(
                f"{name}/{path.name} is of this model, but measured on other text; it is not drawn."
            )
            continue
        for result in other.results:
            if same(result) not in seen:
                seen.add(same(result))
                label = f"{result.label} ({name})"
                found.append((replace(result, label=label), f"../{quote(name)}/report.html"))
    found.sort(key=lambda pair: (pair[0].bytes, pair[0].label))
    if len(found) > MOST:
        notes.append(f"{len(found) - MOST:,} larger artifacts of sibling folders are not drawn.")
        del found[MOST:]
    results, links = (tuple(pair[at] for pair in found) for at in (0, 1))
    return Beside(results, links, tuple(notes))  # type: ignore[arg-type]


def same(result: ArtifactResult) -> tuple[int, tuple[float, ...]]:
    """Equal for one artifact measured twice."""
    return result.bytes, tuple(window.kl for window in result.windows)


def sibling_reports(folder: Path) -> list[Path]:
    """report.json of every folder next to `folder`, by name; none where the parent is not read."""
    own = folder.resolve()
    try:
        with os.scandir(own.parent) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError:
        return []
    paths = (own.parent / name / "report.json" for name in names if name != own.name)
    return [path for path in paths if os.path.isfile(path)]
