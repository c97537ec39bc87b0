"""Readers of user files, one function for each file ending: path in, contents out."""

import importlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from calib_data.document import CalibrationError, Content, Unusable, first_line
from calib_data.records import SHAPES, content_of_row
from runtime.errors import UnsupportedError

MARKED = re.compile(r"^%%[ \t]*$", re.MULTILINE)  # a line of its own: %%
COLUMNS = {column for columns, _ in SHAPES for column in columns}
SPACED = re.compile(r"\n(?:[ \t]*\n){2,}")  # two or more blank lines


def read_file(path: Path) -> Iterator[Content | Unusable]:
    """Yield what a file of READERS holds; CalibrationError says what is wrong."""
    check_file(path)
    try:
        yield from READERS[path.suffix.lower()](path)
    except UnicodeDecodeError as problem:
        raise CalibrationError(
            f"{path} is not UTF-8 text (byte {problem.start}): save it as UTF-8."
        ) from problem
    except OSError as problem:
        raise CalibrationError(
            f"{path} could not be read ({problem.strerror or first_line(problem)}): "
            "check its permissions."
        ) from problem


def check_file(path: Path) -> None:
    """Raise CalibrationError for a file that is not there, or of a kind that is not read."""
    endings = ", ".join(READERS)
    if not path.exists():
        raise CalibrationError(
            f"There is no calibration text {path}: give a {endings} file, builtin, "
            "builtin:DOMAIN,DOMAIN, hub:DATASET or self."
        )
    if not is_file(str(path)) or not path.is_file():
        raise CalibrationError(f"{path} is not a file ending in {endings}: convert it to one.")


def is_file(spec: str) -> bool:
    """Whether a spec names a file of the user's, by its ending."""
    return Path(spec).suffix.lower() in READERS


def read_txt(path: Path) -> Iterator[str]:
    """Yield documents parted by lines `%%`, else by two blank lines, else the whole file."""
    text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").strip("\n")
    for piece in (MARKED if MARKED.search(text) else SPACED).split(text):
        yield piece.strip("\n")


def read_jsonl(path: Path) -> Iterator[Content | Unusable]:
    """Yield what each line's object holds, see records.py; a blank line is empty."""
    with path.open("rb") as lines:
        yield from rows(
            (where := f"{path} line {number}", parsed(line, where) if line.strip() else None)
            for number, line in enumerate(lines, start=1)
        )


def read_json(path: Path) -> Iterator[Content | Unusable]:
    """Yield what each object of a list holds, see records.py; JSON lines of that name are read."""
    text = path.read_bytes()
    if not text.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        yield from read_jsonl(path)
        return
    found = parsed(text, str(path))
    yield from rows((f"{path} row {number}", row) for number, row in enumerate(found, start=1))


def parsed(text: bytes, where: str) -> Any:
    """A JSON value. Raises CalibrationError with `where`."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise CalibrationError(
            f"{where} is not JSON ({first_line(problem)}): fix or delete that line."
        ) from problem


def rows(values: Iterator[tuple[str, Any]]) -> Iterator[Content | Unusable]:
    """Yield what rows hold, given with the place of each; None is empty.

    A row that is no object or has no known column is unusable; CalibrationError at the end when
    not one had a known column.
    """
    problem, known = None, False
    for where, row in values:
        if row is None:
            yield ""
        elif not isinstance(row, dict):
            yield Unusable("a row that is no object")
        else:
            try:
                yield content_of_row(row, where)
                known = True
            except CalibrationError as error:
                problem = problem or error
                yield Unusable("neither text nor messages")
    if problem and not known:
        raise problem


def read_parquet(path: Path) -> Iterator[Content | Unusable]:
    """Yield what each row holds, see records.py; needs pyarrow."""
    parquet = optional("pyarrow.parquet", "a .parquet file")
    try:
        with parquet.ParquetFile(path) as table:
            names = table.schema_arrow.names
            content_of_row(dict.fromkeys(names), str(path))  # is there any column to read?
            known = [name for name in names if name in COLUMNS]
            batches = table.iter_batches(columns=known)
            for number, row in enumerate(chain.from_iterable(b.to_pylist() for b in batches), 1):
                yield content_of_row(row, f"{path} row {number}")
    except CalibrationError:
        raise
    except ValueError as problem:  # pyarrow's ArrowInvalid is one
        raise CalibrationError(
            f"{path} is not a readable parquet file ({first_line(problem)}): write it again."
        ) from problem


READERS: Mapping[str, Callable[[Path], Iterator[Content | Unusable]]] = {
    ".txt": read_txt,
    ".json": read_json,
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
}


def optional(module: str, what: str) -> Any:
    """Import a package that only the data extra brings; `what` names what needs it."""
    try:
        return importlib.import_module(module)
    except ImportError as problem:
        package = module.partition(".")[0]
        raise UnsupportedError(
            f"Reading {what} needs {package}: pip install 'edgequant[data]'."
        ) from problem
