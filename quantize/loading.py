"""Open whatever a user points at, without torch."""

from pathlib import Path
from typing import Any

from runtime.containers import recognise
from runtime.engine import Engine, Purpose, open_engine, reads_files
from runtime.errors import InputError
from runtime.model import Model


def kind(path: Path) -> str:
    """The name of what a path holds, such as "gguf" or "checkpoint". Raises as `recognise` does."""
    return recognise(path).name


def open_model(path: Path) -> Model:
    """The stored tensors, sizes and tokenizer of any container or of a checkpoint."""
    return recognise(path).open(path)


def open_any(
    path: Path, backend: str | None = None, purpose: Purpose | None = None, **options: Any
) -> Engine:
    """An engine for a file: the one that its reader names, unless one is given.

    `purpose` and `options` are those of `runtime.engine.open_engine`.
    """
    reader = recognise(path)
    backend = backend or reader.engine
    model = path if reads_files(backend) else reader.open(path)
    return open_engine(model, backend, purpose=purpose, **options)


def render(engine: Engine, messages: list[dict[str, Any]]) -> str:
    """Messages as the model's chat template writes them, with the assistant's turn opened."""
    if engine.tokenizer is None:
        raise InputError(
            "this model has no tokenizer and so no chat template; use a model that has one."
        )
    try:
        return engine.tokenizer.render(messages, generate=True)
    except ValueError as error:
        raise InputError(str(error)) from error
