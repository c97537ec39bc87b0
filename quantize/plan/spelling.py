"""How a setting is spelled: `--calib-length 64` on the command line, `length=64` in Python.

Sentences name flags, as most readers type them; `in_python` gives the words of a program, and
`on_command_line` the flag of a number that a Plan calls by its field.
"""

import re

FIELDS = {
    "--calib-length": "length",
    "--calib-rows": "rows",
    "--no-check": "check=False",
    "--rewrite": "rewrites",
    "--rule": "rules",
    "-o": "output",
}
"""Flags that are not their field with hyphens."""
FLAG = re.compile(
    r"(?<![\w-])(--[a-z][a-z0-9-]*|-o\b)"
    r"(?: ('[^']*'|[^\s,;]*[:=\d][^\s,;]*|(?:(?<=choose --to )|(?<=or --to ))[a-z][\w-]*))?"
)
"""A flag, with a value where one follows: it has a digit, a colon or an equals sign, or is what is
to be chosen."""


def in_python(text: str) -> str:
    """A sentence with settings where it has flags; commands, in backticks, stay as they are."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else FLAG.sub(_setting, part) for part in parts)


def _setting(found: re.Match[str]) -> str:
    name = FIELDS.get(found[1], found[1].lstrip("-").replace("-", "_"))
    if found[2] is None:
        return name
    value = found[2].rstrip(".)" if "(" not in found[2] else ".")
    if not re.search(r"[:=\d]", found[2]) and name != "to":
        return f"{name} {found[2]}"
    end = found[2][len(value) :]
    quoted = value if re.fullmatch(r"[\d.]+|'.*'", value) else f"'{value}'"
    return f"{name}={quoted}{end}"


def on_command_line(text: str) -> str:
    """A sentence that begins with a field's name and "must" begins with its flag."""
    name, must, rest = text.partition(" must ")
    if not must or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        return text
    return flag(name) + must + rest


def flag(field: str) -> str:
    """The flag that sets a field of a Plan."""
    flags = {field: flag for flag, field in FIELDS.items()}
    return flags.get(field, f"--{field.replace('_', '-')}")
