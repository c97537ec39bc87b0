"""Panics of libraries in Rust, which reach Python as exceptions that are no `Exception`."""

from collections.abc import Iterator
from contextlib import contextmanager

from runtime.errors import CorruptFileError


def is_panic(error: BaseException) -> bool:
    """Whether a library in Rust ran into a fault of its own; its class can be imported nowhere."""
    return type(error).__module__ == "pyo3_runtime"


@contextmanager
def panics(what: object) -> Iterator[None]:
    """Raise CorruptFileError, which names `what` was read, for a panic in the body."""
    try:
        yield
    except BaseException as error:
        if not is_panic(error):
            raise
        reason = str(error).partition("\n")[0]
        raise CorruptFileError(
            f"{what} makes the library that reads it fail ({reason}); download it again."
        ) from error
