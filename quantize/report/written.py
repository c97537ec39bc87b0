"""The report and model card beside artifacts: what they replace, and how they are written."""

from pathlib import Path

from export.files import check_folder, new_file
from quantize.report.beside import Beside, beside
from quantize.report.report import Report
from quantize.report.score_report import AnyReport
from runtime.errors import InputError

REPORTS = ("report.json", "report.html", "README.md")
"""Written beside the artifacts; `check` writes the first two."""

MARKS = {
    "report.json": ('"schema_version"', '"evaluation"'),
    "report.html": ("<p>edgequant ", "report schema "),
    "README.md": ("\nMade with edgequant ",),
}
"""What stands in each of them."""


def refuse_reports(folder: Path) -> None:
    """Raise InputError when no report can go there, before the time is spent."""
    check_folder(folder, "--report")
    for name in REPORTS[:2]:
        if (folder / name).exists():
            raise InputError(
                f"{folder / name} exists; choose another folder with --report, or move it away."
            )


def refuse_other_report(path: Path) -> None:
    """Raise InputError where what would be overwritten is no report or model card of ours."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; choose another folder with -o.")
    if path.exists() and not is_report(path):
        raise InputError(
            f"{path} was not written by edgequant, so it is not overwritten; move it away, or "
            "choose another folder with -o."
        )


def is_report(path: Path) -> bool:
    """Whether this or an earlier version wrote a file of REPORTS, or it is empty."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else "?"
    return not text.strip() or all(mark in text for mark in MARKS[path.name])


def write(report: AnyReport, folder: Path, card: str | None, overwrite: bool) -> None:
    """report.json, report.html and, when given, the model card."""
    from quantize.report import render  # with matplotlib, which takes a second to import

    others = beside(folder, report) if isinstance(report, Report) else Beside()
    texts = {"report.json": report.text(), "report.html": render.html(report, others)}
    if card is not None:
        texts["README.md"] = card
    for name, text in texts.items():
        with new_file(folder / name, overwrite) as temp:
            temp.write_text(text, encoding="utf-8")
