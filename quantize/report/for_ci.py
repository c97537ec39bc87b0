"""Checks as systems read them that test every change: JUnit XML, and GitHub's annotations."""

import xml.etree.ElementTree as Xml
from pathlib import Path

from export.files import check_folder, new_file
from quantize.report.checks import Check
from quantize.report.report import ArtifactResult
from quantize.report.score_report import AnyReport, ScoreResult
from runtime.errors import InputError, one_line

SUITES = '<testsuites name="edgequant"'
"""What a file of ours begins with, behind the declaration of XML."""


def junit(report: AnyReport) -> str:
    """The checks as JUnit XML: a suite for each artifact, a test case for each check.

    A gate that was asked for and not measured is an error, another check that was not is skipped.
    """
    root = Xml.Element("testsuites", name="edgequant")
    for result in report.results:
        states = [_outcome(check) for check in result.checks]
        counts = {"failures": "failure", "errors": "error", "skipped": "skipped"}
        label = _plain(result.label)
        told = {"name": label, "tests": str(len(states)), "timestamp": report.time}
        told |= {name: str(states.count(tag)) for name, tag in counts.items()}
        suite = Xml.SubElement(root, "testsuite", told)
        for check in result.checks:
            _add_case(suite, label, check)
    Xml.indent(root)
    return Xml.tostring(root, encoding="unicode") + "\n"


def _add_case(suite: Xml.Element, label: str, check: Check) -> None:
    case = Xml.SubElement(suite, "testcase", classname=label, name=_plain(check.name))
    lines = [_plain(line) for line in check.told]
    if outcome := _outcome(check):
        Xml.SubElement(case, outcome, message=lines[0]).text = "\n".join(lines)
    figures = {"value": check.value, "limit": check.limit}
    shown = [f"{name} {figure:.8g}" for name, figure in figures.items() if figure is not None]
    if shown:
        Xml.SubElement(case, "system-out").text = ", ".join(shown)


def _outcome(check: Check) -> str:
    """The element that says so; "" where it passed."""
    open_tag = "error" if check.asked else "skipped"
    return {"passed": "", "failed": "failure", "not measured": open_tag}[check.state]


def _plain(text: str) -> str:
    """Text that XML 1.0 can hold: names and sentences may have any character of a file."""
    return one_line(text).translate({0xFFFE: "\ufffd", 0xFFFF: "\ufffd"})


def check_path(path: Path) -> None:
    """Raise InputError where `write` could not, before the time is spent."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file with --junit.")
    if not path.absolute().parent.exists():
        raise InputError(f"{path.absolute().parent} does not exist; make the folder first.")
    if path.exists() and SUITES not in path.read_text(encoding="utf-8", errors="replace")[:200]:
        raise InputError(
            f"{path} was not written by edgequant, so it is not overwritten; choose another name "
            "with --junit."
        )
    check_folder(path.absolute().parent, "--junit")


def write(report: AnyReport, path: Path) -> None:
    """The checks as JUnit XML in a file, in place of those of an earlier run."""
    with new_file(path, overwrite=True) as temp:
        text = '<?xml version="1.0" encoding="UTF-8"?>\n' + junit(report)
        temp.write_text(text, encoding="utf-8")


def annotations(report: AnyReport, folder: Path) -> list[str]:
    """An error for what failed and for a gate that was asked for and not measured.

    `folder` is that of the artifacts. Format: "Workflow commands for GitHub Actions", GitHub Docs.
    """
    return [
        f"::error file={_in_property(_where(folder, result))},"
        f"title={_in_property(f'{result.label} {check.name} {check.state}')}::{_in_message(line)}"
        for result in report.results
        for check in result.checks
        if check.state == "failed" or (check.asked and check.state == "not measured")
        for line in check.told
    ]


def _where(folder: Path, result: ArtifactResult | ScoreResult) -> str:
    return (folder / result.file).as_posix()


def _in_message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _in_property(text: str) -> str:
    return _in_message(text).replace(":", "%3A").replace(",", "%2C")
