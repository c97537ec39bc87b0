"""Readers of user files, one function for each file ending: path in, contents out."""

import importlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from calib_data.document import INVALID, CalibrationError, Content, Unusable, first_line
from calib_data.records import KNOWN, MAIN, RowReader, content_of, holds
from runtime.errors import UnsupportedError

MARKED = re.compile(r"^%%[ \t]*$", re.MULTILINE)  # a line of its own: %%
LISTS = ("data", "rows", "train")  # where a .json file that is one object may keep its rows
SPACED = re.compile(r"\n(?:[ \t]*\n){2,}")  # two or more blank lines


def read_file(path: Path, reader: RowReader | None = None) -> Iterator[Content | Unusable]:
    """Yield what a file of READERS holds; CalibrationError says what is wrong.

    The reader, when one is given, knows afterwards which columns were not read.
    """
    check_file(path)
    ending = path.suffix.lower()
    try:
        if ending != ".parquet":
            check_encoding(path)
        yield from READERS[ending](path, reader or RowReader())
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


def check_encoding(path: Path) -> None:
    """Raise CalibrationError for a text file of another encoding than UTF-8."""
    with path.open("rb") as file:
        encoding = json.detect_encoding(file.read(4)).upper()
    if not encoding.startswith("UTF-8"):
        raise CalibrationError(f"{path} is {encoding[:6]} text: save it as UTF-8.")


def read_txt(path: Path, reader: RowReader) -> Iterator[str]:
    """Yield documents parted by lines `%%`, else by two blank lines, else the whole file."""
    text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").strip("\n")
    for piece in (MARKED if MARKED.search(text) else SPACED).split(text):
        yield piece.strip("\n")


def read_jsonl(path: Path, reader: RowReader) -> Iterator[Content | Unusable]:
    """Yield what each line's object holds, see records.py; a blank line is empty."""
    with path.open("rb") as lines:
        values = (
            (f"{path} line {number}", json_line(line)) for number, line in enumerate(lines, 1)
        )
        way_out = "put one JSON object on each line, or a list of them into a .json file"
        yield from rows(values, reader, way_out)


def read_json(path: Path, reader: RowReader) -> Iterator[Content | Unusable]:
    """Yield what a list of rows holds, see rows_of; JSON lines of that name are read as such."""
    text = path.read_bytes()
    try:
        found = parsed(text)
    except NotJson as problem:
        if text.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
            raise CalibrationError(f"{path} is {problem}: write it again.") from problem
        yield from read_jsonl(path, reader)
        return
    values = enumerate(found if isinstance(found, list) else rows_of(found, reader), start=1)
    yield from rows(((f"{path} row {number}", row) for number, row in values), reader)


def rows_of(found: Any, reader: RowReader) -> list[Any]:
    """The rows of a list in an object (see LISTS), of pandas' columns, or one object as a row."""
    if not isinstance(found, dict):
        return [found]
    if not any(holds(found.get(column)) for column in MAIN):
        name = next((name for name in LISTS if isinstance(found.get(name), list)), None)
        if name:
            reader.filled |= dict.fromkeys(key for key in found if key != name)
            return list(found[name])
    elif all(isinstance(column, dict) for column in found.values()):  # {"text": {"0": ...}}
        index = dict.fromkeys(chain.from_iterable(found.values()))
        return [{name: column.get(row) for name, column in found.items()} for row in index]
    return [found]


class NotJson(ValueError):
    """Why bytes are no JSON value."""


def parsed(text: bytes) -> Any:
    """A JSON value; an integer too long for Python stays text. Raises NotJson.

    Bytes that are no UTF-8 become surrogates, so that only what they stand in is unusable.
    """
    try:
        return json.loads(text.decode("utf-8-sig", "surrogateescape"), parse_int=integer)
    except json.JSONDecodeError as problem:
        raise NotJson(f"not JSON ({problem.msg})") from problem
    except RecursionError as problem:
        raise NotJson("nested too deep") from problem


def integer(digits: str) -> int | str:
    """An integer, or its digits when they are more than Python converts."""
    try:
        return int(digits)
    except ValueError:
        return digits


def json_line(line: bytes) -> Any:
    """A line's value, None for a blank one, or why it has none."""
    try:
        return parsed(line) if line.strip() else None
    except NotJson as problem:
        return Unusable(str(problem))


def rows(
    values: Iterable[tuple[str, Any]], reader: RowReader, way_out: str = "write it again"
) -> Iterator[Content | Unusable]:
    """Yield what rows hold, given with the place of each; None is empty, a string is text.

    A row that could not be read, is no object or has no known column is unusable; CalibrationError
    about the first at the end when not one had a known column.
    """
    problem, known = None, False
    for where, row in values:
        if isinstance(row, Unusable):
            problem = problem or CalibrationError(f"{where} is {row.reason}: {way_out}.")
            yield row
        elif row is None or isinstance(row, str):
            known = known or isinstance(row, str)
            yield content_of(row)
        elif not isinstance(row, dict):
            yield Unusable("not an object")
        else:
            try:
                yield reader.read(row, where)
                known = True
            except CalibrationError as error:
                problem = problem or error
                yield Unusable("neither text nor messages")
    if problem and not known:
        raise problem


def read_parquet(path: Path, reader: RowReader) -> Iterator[Content | Unusable]:
    """Yield what each row holds, see records.py; needs pyarrow."""
    parquet = optional("pyarrow.parquet", "a .parquet file")
    arrow = optional("pyarrow", "a .parquet file")
    try:
        with parquet.ParquetFile(path) as table:
            names = table.schema_arrow.names
            reader.read(dict.fromkeys(names), str(path))  # is there any column to read?
            reader.filled |= dict.fromkeys(name for name in names if name not in KNOWN)
            batches = table.iter_batches(columns=[name for name in names if name in KNOWN])
            found = enumerate(chain.from_iterable(map(batch_rows, batches)), start=1)
            yield from rows(((f"{path} row {number}", row) for number, row in found), reader)
    except CalibrationError:
        raise
    except (arrow.ArrowException, OSError, ValueError) as problem:
        if isinstance(problem, OSError) and problem.errno:  # the system's, not pyarrow's own
            raise
        raise CalibrationError(
            f"{path} is not a readable parquet file ({first_line(problem)}): write it again."
        ) from problem


def batch_rows(batch: Any) -> list[Any]:
    """The rows of a batch of pyarrow; one with bytes that are no text is unusable."""
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return [Unusable(INVALID)]
        singles = (batch.slice(row, 1) for row in range(batch.num_rows))
        return [row for single in singles for row in batch_rows(single)]


READERS: Mapping[str, Callable[[Path, RowReader], Iterator[Content | Unusable]]] = {
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
