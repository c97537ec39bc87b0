"""`edgequant.check` and `compare` hold files to their original, `verify` to what was written."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from edgequant._settings import (
    CheckSettings,
    CompareSettings,
    Progress,
    StrPath,
    in_python,
    paths_of,
    refuse_unknown,
    silent,
)
from runtime.errors import GateError, InputError

if TYPE_CHECKING:
    from quantize.report.report import Report
    from quantize.report.score_report import ScoreReport


@in_python()
def check(
    files: StrPath | Iterable[StrPath],
    against: StrPath | None = None,
    *,
    backend: str = "native",
    report: StrPath | None = None,
    reject: bool = False,
    progress: Progress | None = None,
    **settings: Unpack[CheckSettings],
) -> "Report | ScoreReport":
    """Measure GGUF files and ONNX folders against their original.

    files: one path or several. against: the original, a checkpoint folder, hub id or GGUF file;
    None = the bundled one. backend: engine for GGUF files. report: folder for report.html and
    report.json. reject: rename a file that fails a gate to NAME.rejected, as the command line does.
    progress: as in `quantize`. settings: the text to measure on, and the gates.

    Raises GateError, with the Report as its `result`, when a gate fails or cannot be measured; one
    always holds: no NaN, no infinity, and the tokenizer of the original. Raises another
    EdgequantError for bad input, before any measurement.
    """
    from quantize.report.judge import check_files

    found = check_files(
        _files(files),
        _original(against),
        None if report is None else Path(report),
        backend,
        _flags(settings, CheckSettings),
        progress or silent,
        reject=reject,
    )
    if told := [*found.failures, *found.open_questions]:
        raise GateError(told, found)
    return found


@in_python()
def compare(
    files: Iterable[StrPath],
    against: StrPath | None = None,
    *,
    backend: str = "native",
    report: StrPath | None = None,
    chart: StrPath | None = None,
    progress: Progress | None = None,
    **settings: Unpack[CompareSettings],
) -> "Report | ScoreReport":
    """Measure several artifacts of one model on the same text, the smallest first.

    `standings` of the Report says which of them are worth their bytes. chart: file for bytes
    against KL, .svg or .png. The other arguments are those of `check`; the effect of single layers
    is measured only for a `report`.

    What is wrong with an artifact is in `failures` of the Report and raises nothing: the rest of
    the comparison holds. Raises EdgequantError for bad input, before any measurement.
    """
    from quantize.report.comparison import compare_files

    return compare_files(
        _files(files),
        _original(against),
        None if report is None else Path(report),
        None if chart is None else Path(chart),
        backend,
        _flags(settings, CompareSettings),
        progress or silent,
    )


@in_python()
def verify(file: StrPath) -> tuple[str, ...]:
    """What of an artifact of ours is not as it was written, by the hashes in it: a sentence each.

    No model is needed. Raises EdgequantError for a file that cannot be read or holds no hashes.
    """
    from quantize.verification import verify as changes

    return tuple(changes(Path(file))["changes"])


@in_python()
def attest(
    file: StrPath,
    against: StrPath | None = None,
    *,
    adapter: StrPath | Iterable[StrPath] | None = None,
    calibration: StrPath | None = None,
    calib_images: StrPath | None = None,
    imatrix: StrPath | None = None,
) -> tuple[str, ...]:
    """What of an artifact is not what the recipe in it makes of the original: a sentence each.

    A recipe names files without their folders, so they are given here again. Raises EdgequantError
    for a file without a recipe, and as `quantize` does.
    """
    from quantize.attestation import attest as compared

    named = {"calibration": calibration, "calib_images": calib_images, "imatrix": imatrix}
    given: dict[str, Any] = {k: os.fspath(v) for k, v in named.items() if v is not None}
    if adapter is not None:
        given["adapter"] = adapter
    return tuple(compared(Path(file), _original(against), given, silent)["differences"])


def _files(files: StrPath | Iterable[StrPath]) -> list[Path]:
    found = paths_of(files)
    if not found:
        raise InputError("there is nothing to measure; give at least one file.")
    return found


def _original(against: StrPath | None) -> str | None:
    return None if against is None else os.fspath(against)


def _flags(settings: Mapping[str, Any], known: Any) -> dict[str, Any]:
    """Settings as the inner functions take them."""
    refuse_unknown(settings, known)
    flags = dict(settings)
    if flags.get("baseline") is not None:
        flags["baseline"] = Path(flags["baseline"])
    return flags
