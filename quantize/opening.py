"""Open whatever a user points at, and say what is inside."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from export import CONTAINERS, Container
from quantize.checkpoint import open_checkpoint
from quantize.methods import METHODS
from quantize.rewrites import REWRITES
from runtime.archs import FAMILIES
from runtime.blocks import BLOCKS
from runtime.engine import Engine, backend_names, open_engine, reads_files
from runtime.errors import EdgequantError
from runtime.model import Model


def container_of(path: Path) -> Container | None:
    """What a path holds; None for a checkpoint folder.

    Raises EdgequantError when there is nothing, or nothing known.
    """
    ways = ", ".join(container.described for container in CONTAINERS.values())
    if not path.exists():
        raise EdgequantError(f"{path} does not exist; give {ways} or a checkpoint folder.")
    for container in CONTAINERS.values():
        if container.recognises(path):
            return container
    if path.is_file():
        files = (f"a {c.name.upper()} file" for c in CONTAINERS.values() if c.is_file)
        raise EdgequantError(
            f"{path} is not {' or '.join(files)}; give {ways} or a checkpoint folder."
        )
    return None


def kind(path: Path) -> str:
    """The container's name, or "checkpoint". Raises as `container_of` does."""
    container = container_of(path)
    return "checkpoint" if container is None else container.name


def open_model(path: Path) -> Model:
    """The stored tensors, sizes and tokenizer of any container or of a checkpoint."""
    container = container_of(path)
    return open_checkpoint(path).model() if container is None else container.open(path)


def open_any(path: Path, backend: str | None = None) -> Engine:
    """An engine for a file: the one that its container names, or native, unless one is given."""
    container = container_of(path)
    backend = backend or ("native" if container is None else container.engine)
    return open_engine(path if reads_files(backend) else open_model(path), backend)


def render(engine: Engine, messages: list[dict[str, str]]) -> str:
    """Messages as the model's chat template writes them, with the assistant's turn opened."""
    if engine.tokenizer is None:
        raise EdgequantError(
            "this model has no tokenizer and so no chat template; leave out --chat."
        )
    try:
        return engine.tokenizer.render(messages, generate=True)
    except ValueError as error:
        raise EdgequantError(str(error)) from error


def describe(path: Path) -> dict[str, Any]:
    """Sizes, types and bytes by tensor, and provenance, as JSON values."""
    model, container = open_model(path), container_of(path)
    files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    tensors: list[dict[str, Any]] = [
        {"name": t.name, "type": t.block.name, "shape": list(t.shape), "bytes": t.nbytes}
        for t in map(model.tensors.__getitem__, model.tensors)
    ]
    weights = sum(math.prod(t["shape"]) for t in tensors)
    return {
        "file": str(path),
        "container": kind(path),
        "bytes": sum(f.stat().st_size for f in files),
        "weights": weights,
        "bits_per_weight": 8 * sum(t["bytes"] for t in tensors) / weights,
        "arch": vars(model.arch) | {"rope": vars(model.arch.rope)},
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


def catalogue(what: str) -> list[dict[str, Any]]:
    """Rows about methods, types, presets, archs or backends.

    Raises EdgequantError for another word.
    """
    if what not in CATALOGUES:
        raise EdgequantError(f"cannot list {what!r}; choose from {', '.join(CATALOGUES)}.")
    return CATALOGUES[what]()


def _methods() -> list[dict[str, Any]]:
    return [{"name": m.name, "what": m.summary} for m in METHODS.values()]


def _rewrites() -> list[dict[str, Any]]:
    return [{"name": r.name, "what": r.summary} for r in REWRITES.values()]


def _types() -> list[dict[str, Any]]:
    return [
        {"name": b.name, "block": b.size, "bits": round(b.bits, 4), "in": _containers(b.name)}
        for b in BLOCKS.values()
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


def _containers(name: str) -> str:
    return ", ".join(c.name for c in CONTAINERS.values() if c.holds(BLOCKS[name]))


def render_catalogue(what: str, rows: list[dict[str, Any]]) -> Table:
    """The rows as a table."""
    table = Table(*rows[0], title=what)
    for row in rows:
        table.add_row(*map(str, row.values()))
    return table


__all__ = ["catalogue", "describe", "open_any", "open_model", "render"]
