"""Readers of user files, one function for each file ending: path in, contents out."""

import importlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from calib_data.document import CalibrationError, Content, Messages, document, first_line
from runtime.errors import UnsupportedError

MARKED = re.compile(r"^%%[ \t]*$", re.MULTILINE)  # a line of its own: %%
SPACED = re.compile(r"\n(?:[ \t]*\n){2,}")  # two or more blank lines


def read_file(path: Path) -> Iterator[Content]:
    """Yield what a .txt, .jsonl or .parquet file holds; CalibrationError says what is wrong."""
    endings = ", ".join(READERS)
    if not path.exists():
        raise CalibrationError(
            f"There is no calibration text {path}: give a {endings} file, builtin, "
            "builtin:DOMAIN,DOMAIN, hub:DATASET or self."
        )
    reader = READERS.get(path.suffix.lower())
    if reader is None or not path.is_file():
        raise CalibrationError(f"{path} is not a file ending in {endings}: convert it to one.")
    try:
        yield from reader(path)
    except UnicodeDecodeError as problem:
        raise CalibrationError(
            f"{path} is not UTF-8 text (byte {problem.start}): save it as UTF-8."
        ) from problem
    except OSError as problem:
        raise CalibrationError(
            f"{path} could not be read ({problem.strerror}): check its permissions."
        ) from problem


def is_file(spec: str) -> bool:
    """Whether a spec names a file of the user's, by its ending."""
    return Path(spec).suffix.lower() in READERS


def read_txt(path: Path) -> Iterator[str]:
    """Yield documents parted by lines `%%`, else by two blank lines, else the whole file."""
    text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").strip("\n")
    for piece in (MARKED if MARKED.search(text) else SPACED).split(text):
        yield piece.strip("\n")


def read_jsonl(path: Path) -> Iterator[Content]:
    """Yield the `messages`, or else the `text`, of each line's object; a blank line is empty."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                yield ""
                continue
            where = f"{path} line {number}"
            try:
                record = json.loads(line)
            except ValueError as problem:
                raise CalibrationError(
                    f"{where} is not JSON ({first_line(problem)}): mend or delete that line."
                ) from problem
            if not isinstance(record, dict):
                raise CalibrationError(f'{where} is not an object: write {{"text": ...}}.')
            yield content_of(record.get(pick_column(record, where)), where)


def read_parquet(path: Path) -> Iterator[Content]:
    """Yield the column `messages`, or else `text`, of each row; needs pyarrow."""
    parquet = optional("pyarrow.parquet", "a .parquet file")
    try:
        with parquet.ParquetFile(path) as table:
            column = pick_column(dict.fromkeys(table.schema_arrow.names), str(path))
            batches = table.iter_batches(columns=[column])
            values = (value for batch in batches for value in batch.column(0).to_pylist())
            for number, value in enumerate(values, start=1):
                yield content_of(value, f"{path} row {number}")
    except CalibrationError:
        raise
    except ValueError as problem:  # pyarrow's ArrowInvalid is one
        raise CalibrationError(
            f"{path} is not a readable parquet file ({first_line(problem)}): write it again."
        ) from problem


READERS: Mapping[str, Callable[[Path], Iterator[Content]]] = {
    ".txt": read_txt,
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
}


def pick_column(names: Mapping[str, Any], where: str) -> str:
    """Name the column that holds documents: `messages` wins over `text` when both are there."""
    for column in ("messages", "text"):
        if column in names:
            return column
    raise CalibrationError(
        f"{where} has {', '.join(names) or 'nothing'}, but neither text nor messages: "
        "rename the one that holds the documents."
    )


def content_of(value: object, where: str) -> Content:
    """Check one value: text or a conversation (missing is empty text); `where` is for errors."""
    if value is None:
        return ""
    content = value if isinstance(value, str) else messages_of(value, where)
    try:
        document(content)
    except UnicodeEncodeError as problem:
        raise CalibrationError(
            f"{where} holds half a surrogate pair, which no tokenizer reads: delete it."
        ) from problem
    return content


def messages_of(value: object, where: str) -> Messages:
    """Check a conversation: every turn has a role and content, and every entry is a string."""
    turns = value if isinstance(value, list) else [None]
    messages: Messages = []
    for turn in turns:
        # parquet fills the keys that other turns have with null, so null means absent
        entries = turn if isinstance(turn, dict) else {}
        kept = {key: entry for key, entry in entries.items() if entry is not None}
        strings = all(isinstance(entry, str) for entry in kept.values())
        if not strings or "role" not in kept or "content" not in kept:
            raise CalibrationError(
                f"{where} is neither text nor messages: every message needs a role and content, "
                "and strings only."
            )
        messages.append(kept)
    return messages


def optional(module: str, what: str) -> Any:
    """Import a package that only the data extra brings; `what` names what needs it."""
    try:
        return importlib.import_module(module)
    except ImportError as problem:
        package = module.partition(".")[0]
        raise UnsupportedError(
            f"Reading {what} needs {package}: pip install 'edgequant[data]'."
        ) from problem
