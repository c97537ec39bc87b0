"""Check JSON values against the part of JSON Schema (draft 2020-12) that our schema uses."""

import json
import re
from pathlib import Path
from typing import Any

from quantize.report import report

KINDS: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "null": type(None),
    "boolean": bool,
}
KNOWN = {
    "$schema", "title", "description", "type", "properties", "required", "additionalProperties",
    "$defs", "$ref", "anyOf", "items", "minimum", "maximum", "const",
}  # fmt: skip


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of `Report.to_json`."""
    path = Path(report.__file__).with_name("schema.json")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def errors(value: Any, schema: dict[str, Any], root: dict[str, Any], at: str = "$") -> list[str]:
    """A line for each place where value breaks the schema."""
    assert set(schema) <= KNOWN, f"{at}: {set(schema) - KNOWN} is not checked"
    found = []
    if "$ref" in schema:
        (name,) = re.fullmatch(r"#/\$defs/(\w+)", schema["$ref"]).groups()  # type: ignore[union-attr]
        found += errors(value, root["$defs"][name], root, at)
    if "const" in schema and value != schema["const"]:
        found.append(f"{at} is {value!r}, not {schema['const']!r}")
    if "anyOf" in schema and all(errors(value, part, root, at) for part in schema["anyOf"]):
        found.append(f"{at} fits no alternative")
    if "type" not in schema:
        return found
    is_bool = isinstance(value, bool)  # which Python counts among the integers
    if not isinstance(value, KINDS[schema["type"]]) or is_bool != (schema["type"] == "boolean"):
        return [*found, f"{at} is no {schema['type']}"]
    return found + inner_errors(value, schema, root, at)


def inner_errors(value: Any, schema: dict[str, Any], root: dict[str, Any], at: str) -> list[str]:
    if isinstance(value, int | float):
        fits = schema.get("minimum", value) <= value <= schema.get("maximum", value)
        return [] if fits else [f"{at} is out of range"]
    if isinstance(value, dict):
        return object_errors(value, schema, root, at)
    items = value if isinstance(value, list) else []
    part = schema.get("items", {})
    return [e for i, item in enumerate(items) for e in errors(item, part, root, f"{at}[{i}]")]


def object_errors(
    value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any], at: str
) -> list[str]:
    known, rest = schema.get("properties", {}), schema.get("additionalProperties", {})
    found = [f"{at} has no {name}" for name in schema.get("required", []) if name not in value]
    for name, item in value.items():
        part = known.get(name, rest)
        if part is False:
            found.append(f"{at} has an unknown {name}")
        else:
            found += errors(item, part, root, f"{at}.{name}")
    return found
