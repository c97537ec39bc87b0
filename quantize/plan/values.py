"""What a user writes, as values: plan files, sizes and shares."""

import os
import re
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import numpy as np

from runtime.errors import InputError
from runtime.links import check_kind

UNITS = {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
"""Bytes of a unit, written in capitals."""


MOST = 2.0**60
"""Bytes."""


def parse_bytes(text: str, name: str = "target_size", plain: float = 1) -> int:
    """From "350MB", "300 MiB", "1.5GB" or a number without a unit, of `plain` bytes each.

    Raises EdgequantError, which calls the setting by its name, for anything else.
    """
    match = re.fullmatch(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2].upper() not in UNITS:
        raise InputError(f"{name} {text!r} is not a size; write it like 350MB, 300MiB or 1.5GB.")
    unit = UNITS[match[2].upper()] if match[2] else plain
    size = float(match[1].replace("_", "")) * unit
    if size > MOST:
        raise InputError(f"{name} {text[:40]!r} is more than any machine has.")
    return int(size)


def parse_gib(value: float | str) -> float:
    """GiB, from a number of them or a text such as "16GiB" or "8GB". Errors as in `parse_bytes`."""
    return parse_bytes(value, "max_ram", 2**30) / 2**30 if isinstance(value, str) else value


def parse_share(value: float | str, name: str = "max_kl_increase") -> float:
    """A share, from 0.1 or "10%". Raises InputError, which calls the setting by its name."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(%?)\s*", value)
    if match is None:
        raise InputError(f"{name} must be a share like 10% or 0.1, not {value[:40]!r}.")
    return float(match[1]) / (100 if match[2] else 1)


PARSED: dict[str, Callable[[str], float]] = {
    "target_size": parse_bytes,
    "max_ram": parse_gib,
    "max_kl_increase": parse_share,
}
"""What may be written as a text that says its unit."""


def sized(values: dict[str, Any]) -> dict[str, Any]:
    """Values with what is a size or a share in text as a number. Raises InputError for others."""
    texts = {name: parse for name, parse in PARSED.items() if isinstance(values.get(name), str)}
    return values | {name: parse(values[name]) for name, parse in texts.items()}


def checked_text(value: Any, flag: str, example: str) -> str:
    """One entry of a list of texts. Raises InputError for what is no text."""
    if not isinstance(value, str):
        raise InputError(f"{flag} must hold texts like {example}, not {value!r}.")
    return value


def read_toml(path: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """The values of a plan file, each of the right kind. Errors as in `Plan.from_flags`.

    `fields` are the names and types of a Plan's fields; some are spelled otherwise in a file.
    """
    check_kind(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"plan {path} cannot be read: {error}.") from error
    kinds = fields | dict.fromkeys(("to", "rules", "rewrites", "adapter"), list)
    kinds |= {"output": str, "baseline": str, "imatrix": str, "target_size": str | int}
    kinds |= {"max_ram": str | float, "max_kl_increase": str | float}
    del kinds["targets"]  # spelled `to`
    for name, value in values.items():
        if name not in kinds:
            known = ", ".join(sorted(kinds))
            raise InputError(f"plan {path} has an unknown key {name!r}; known: {known}.")
        if not _is(value, kinds[name]):
            kind = "a list of strings" if kinds[name] is list else _kind_name(kinds[name])
            raise InputError(f"plan {path}: {name} must be {kind}, not {value!r}.")
    return values


def settled(values: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """Values as fields of these types take them: numpy's numbers become Python's.

    Raises InputError for a number, a text or a truth value that is none. Other types pass.
    """
    out = {}
    for name, value in values.items():
        kinds = set(get_args(fields.get(name)) or (fields.get(name),))
        found = value.item() if isinstance(value, np.generic) else value
        simple = kinds <= {str, int, float, bool, NoneType}
        if simple and not _is(found, fields[name]):
            raise InputError(f"{name} must be {_kind_name(fields[name])}, not {value!r}.")
        out[name] = found
    return out


def as_list(value: Any, name: str) -> list[Any]:
    """A list or another series; a single text is a list of one. Raises InputError otherwise."""
    if isinstance(value, str):
        return [value]
    if value is None or not isinstance(value, Iterable):
        raise InputError(f"{name} must be a list of texts, not {value!r}.")
    return list(value)


def paths_of(value: Any, name: str) -> tuple[str, ...]:
    """One path or several, as texts. Raises InputError for anything else."""
    found = [value] if isinstance(value, os.PathLike) else as_list(value, name)
    for path in found:
        if not isinstance(path, str | os.PathLike):
            raise InputError(f"{name} must be a path, not {path!r}.")
    return tuple(map(os.fspath, found))


def _is(value: Any, kind: Any) -> bool:
    """Whether a TOML value can stand for a field of this kind: 1 is a float, true is no int."""
    if kind is list:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    kinds = get_args(kind) or (kind,)
    return type(value) in kinds or (type(value) is int and float in kinds)


def _kind_name(kind: Any) -> str:
    names = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
    return " or ".join(names[k] for k in (get_args(kind) or (kind,)) if k in names)
