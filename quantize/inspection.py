"""What is inside a file, and what this version knows: `quantize show` and `quantize list`."""

import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from export import CONTAINERS
from quantize.loading import files_of
from quantize.methods import METHODS
from quantize.rewrites import REWRITES
from runtime.archs import FAMILIES
from runtime.containers import recognise
from runtime.engine import backend_names
from runtime.errors import InputError
from runtime.quant_types import QUANT_TYPES, QuantType
from runtime.quant_types.read_only import READ_ONLY, ReadOnly


def describe(path: Path) -> dict[str, Any]:
    """Sizes, types and bytes by tensor, and provenance, as JSON values."""
    reader = recognise(path)
    model, container = reader.open(path), CONTAINERS.get(reader.name)
    tensors: list[dict[str, Any]] = [
        {"name": t.name, "type": t.qtype.name, "shape": list(t.shape), "bytes": t.nbytes}
        for t in map(model.tensors.__getitem__, model.tensors)
    ]
    weights = sum(math.prod(t["shape"]) for t in tensors)
    return {
        "file": str(path),
        "container": reader.name,
        "bytes": sum(file.stat().st_size for file in files_of(path)),
        "weights": weights,
        "bits_per_weight": 8 * sum(t["bytes"] for t in tensors) / weights,
        "arch": asdict(model.arch),
        "tokenizer": None if model.tokenizer is None else model.tokenizer.backend.get_vocab_size(),
        "provenance": {} if container is None else container.provenance(path),
        "tensors": tensors,
    }


def render_description(result: dict[str, Any]) -> RenderableType:
    """A screenful: totals, sizes, then types with their tensors."""
    head = Table(show_header=False, box=None)
    head.add_column()
    head.add_column(overflow="fold")
    for key in ("file", "container", "bytes", "weights", "bits_per_weight"):
        value = result[key]
        shown = (
            f"{value:,}"
            if isinstance(value, int)
            else f"{value:.3f}"
            if isinstance(value, float)
            else value
        )
        head.add_row(key.replace("_", " "), str(shown))
    for key, value in result["arch"].items():
        head.add_row(key, str(value))
    for key, value in result["provenance"].items():
        head.add_row(key, str(value))
    table = Table("type", "tensors", "bytes", "share")
    counts = Counter(t["type"] for t in result["tensors"])
    total = sum(t["bytes"] for t in result["tensors"])
    for name, count in counts.most_common():
        size = sum(t["bytes"] for t in result["tensors"] if t["type"] == name)
        table.add_row(name, str(count), f"{size:,}", f"{size / total:.1%}")
    return Group(head, table)


def rows(what: str) -> list[dict[str, Any]]:
    """Rows about methods, types, presets, archs or backends.

    Raises EdgequantError for another word.
    """
    if what not in CATALOGUES:
        raise InputError(f"cannot list {what!r}; choose from {', '.join(CATALOGUES)}.")
    return CATALOGUES[what]()


def _methods() -> list[dict[str, Any]]:
    return [{"name": m.name, "what": m.summary} for m in METHODS.values()]


def _rewrites() -> list[dict[str, Any]]:
    return [{"name": r.name, "what": r.summary} for r in REWRITES.values()]


def _types() -> list[dict[str, Any]]:
    return [
        {"name": b.name, "block": b.size, "bits": round(b.bits, 4), "in": _containers(b)}
        for b in (*QUANT_TYPES.values(), *READ_ONLY.values())
        if _containers(b)
    ]


def _presets() -> list[dict[str, Any]]:
    return [
        {"to": f"{container.name}:{name}", "base": preset.base, "head": preset.head}
        for container in CONTAINERS.values()
        for name, preset in container.presets.items()
    ]


def _archs() -> list[dict[str, Any]]:
    return [
        {"name": f.name, "model_type": ", ".join(f.hf_types), "class": f.hf_class}
        for f in FAMILIES.values()
    ]


def _backends() -> list[dict[str, Any]]:
    return [{"name": name} for name in backend_names()]


CATALOGUES = {
    "methods": _methods,
    "rewrites": _rewrites,
    "types": _types,
    "presets": _presets,
    "archs": _archs,
    "backends": _backends,
}
"""What `quantize list` can list."""


def _containers(qtype: QuantType) -> str:
    if isinstance(qtype, ReadOnly):
        return "gguf, read only" if qtype.ggml_type is not None else ""
    return ", ".join(c.name for c in CONTAINERS.values() if c.holds(qtype))


def render_rows(what: str, found: list[dict[str, Any]]) -> Table:
    """The rows as a table."""
    table = Table(*found[0], title=what)
    for row in found:
        table.add_row(*map(str, row.values()))
    return table
