"""Open whatever a user points at. Torch is loaded only when that is a checkpoint."""

from pathlib import Path
from typing import Any

from export import CONTAINERS, Container
from runtime.engine import Engine, open_engine, reads_files
from runtime.errors import InputError
from runtime.model import Model


def container_of(path: Path) -> Container | None:
    """What a path holds; None for a checkpoint folder.

    Raises EdgequantError when there is nothing, or nothing known.
    """
    ways = ", ".join(container.described for container in CONTAINERS.values())
    if not path.exists():
        raise InputError(f"{path} does not exist; give {ways} or a checkpoint folder.")
    for container in CONTAINERS.values():
        if container.recognises(path):
            return container
    if path.is_file():
        files = (f"a {c.name.upper()} file" for c in CONTAINERS.values() if c.is_file)
        raise InputError(f"{path} is not {' or '.join(files)}; give {ways} or a checkpoint folder.")
    return None


def kind(path: Path) -> str:
    """The container's name, or "checkpoint". Raises as `container_of` does."""
    container = container_of(path)
    return "checkpoint" if container is None else container.name


def open_model(path: Path) -> Model:
    """The stored tensors, sizes and tokenizer of any container or of a checkpoint."""
    container = container_of(path)
    if container is not None:
        return container.open(path)
    from quantize.checkpoint import open_checkpoint

    return open_checkpoint(path).model()


def open_any(
    path: Path, backend: str | None = None, generating: bool = False, **options: Any
) -> Engine:
    """An engine for a file: the one that its container names, or native, unless one is given.

    `generating` is for who wants many tokens, `options` are the backend's: see
    `runtime.engine.open_engine`.
    """
    container = container_of(path)
    backend = backend or ("native" if container is None else container.engine)
    model = path if reads_files(backend) else open_model(path)
    return open_engine(model, backend, generating=generating, **options)


def render(engine: Engine, messages: list[dict[str, str]]) -> str:
    """Messages as the model's chat template writes them, with the assistant's turn opened."""
    if engine.tokenizer is None:
        raise InputError("this model has no tokenizer and so no chat template; leave out --chat.")
    try:
        return engine.tokenizer.render(messages, generate=True)
    except ValueError as error:
        raise InputError(str(error)) from error
