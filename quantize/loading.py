"""Open whatever a user points at, without torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantize.checkpoint import open_checkpoint
from runtime.containers import READERS, recognise
from runtime.engine import Engine, Purpose, open_engine, reads_files
from runtime.errors import InputError
from runtime.model import Model


def kind(path: Path) -> str:
    """The name of what a path holds, such as "gguf" or "checkpoint". Raises as `recognise` does."""
    return recognise(path).name


def open_model(path: Path) -> Model:
    """The stored tensors, sizes and tokenizer of any container or of a checkpoint."""
    return recognise(path).open(path)


def files_of(path: Path) -> list[Path]:
    """The files that hold a model: one, all parts of it, or those of a folder; none for no path."""
    if not path.is_file():
        return [file for file in path.rglob("*") if file.is_file()]
    reader = next((reader for reader in READERS.values() if reader.recognises(path)), None)
    return [path] if reader is None else reader.parts(path)


def open_any(
    path: Path,
    backend: str | None = None,
    purpose: Purpose | None = None,
    adapters: Sequence[str] = (),
    **options: Any,
) -> Engine:
    """An engine for a file: the one that its reader names, unless one is given.

    `purpose` and `options` are those of `runtime.engine.open_engine`. `adapters` are merged into a
    checkpoint. Raises InputError for adapters of anything else.
    """
    reader = recognise(path)
    backend = backend or reader.engine
    if adapters and (reader.name != "checkpoint" or reads_files(backend)):
        raise InputError(
            f"{path} is {reader.described} for the backend {backend}; adapters are merged into "
            "checkpoints alone: give the checkpoint folder, and no engine that opens files itself."
        )
    if adapters:
        merged = open_checkpoint(path, adapters).model()
        return open_engine(merged, backend, purpose=purpose, **options)
    model = path if reads_files(backend) else reader.open(path)
    return open_engine(model, backend, purpose=purpose, **options)


def render(engine: Engine, messages: list[dict[str, Any]], generate: bool = True) -> str:
    """Messages as the model's chat template writes them; `generate` opens the assistant's turn."""
    if engine.tokenizer is None:
        raise InputError(
            "this model has no tokenizer and so no chat template; use a model that has one."
        )
    try:
        return engine.tokenizer.render(messages, generate=generate)
    except ValueError as error:
        raise InputError(str(error)) from error
