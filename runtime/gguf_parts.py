"""A model in several GGUF files, as llama.cpp's splitter leaves it: NAME-00001-of-00003.gguf.

Each part has its own tensors, and says with `split.no` which part it is. Only the first has the
metadata of the model.
"""

import re
from pathlib import Path

from runtime.errors import CorruptFileError, InputError
from runtime.gguf_header import Header, read_header

NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


def read_parts(path: str | Path) -> list[Header]:
    """The headers of all parts, the first part first, whichever part is named; mostly just one.

    Raises EdgequantError for a part that is not there, is of another model or damaged.
    """
    header = read_header(path)
    count = _number(header, "split.count", 1)
    if count < 2:
        return [header]
    own = _number(header, "split.no", 0)
    paths = _paths(header.path, own, count)
    if missing := [part.name for part in paths if not part.exists()]:
        raise InputError(
            f"{header.path} is part {own + 1} of {count}, but {missing[0]} is not beside it; put "
            "all parts into one folder."
        )
    parts = [header if at == own else read_header(part) for at, part in enumerate(paths)]
    _check(parts, count)
    return parts


def part_paths(path: Path) -> list[Path]:
    """The files of a model, of which one is named; see `read_parts`."""
    return [part.path for part in read_parts(path)]


def _paths(path: Path, own: int, count: int) -> list[Path]:
    """Where the parts lie, by the name of one of them."""
    found = NAME.fullmatch(path.name)
    expected = f"-{own + 1:05}-of-{count:05}.gguf"
    if found is None or not path.name.endswith(expected):
        raise InputError(
            f"{path} is part {own + 1} of {count}, and by its name the others are found; rename it "
            f"to end with {expected}."
        )
    return [path.with_name(f"{found[1]}-{at + 1:05}-of-{count:05}.gguf") for at in range(count)]


def _check(parts: list[Header], count: int) -> None:
    """Raise CorruptFileError for parts that do not belong together."""
    for at, part in enumerate(parts):
        says = _number(part, "split.no", 0), _number(part, "split.count", 1)
        if says != (at, count):
            raise CorruptFileError(
                f"{part.path} says that it is part {says[0] + 1} of {says[1]}, not part {at + 1} "
                f"of {count}; download it again."
            )
    total = _number(parts[0], "split.tensors.count", 0)
    found = sum(len(part.table) for part in parts)
    if found != total:
        raise CorruptFileError(
            f"{parts[0].path} says that the parts hold {total} tensors, but there are {found}; "
            "download all parts again."
        )


def _number(header: Header, key: str, default: int) -> int:
    """A whole number of the metadata."""
    value = header.metadata.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise header.cursor.damaged(f"{key} is {value!r}, not a whole number")
    return value
