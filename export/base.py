"""What a container is: a name, what it can hold, and a function that writes it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from runtime.archs import Arch
from runtime.blocks import Block
from runtime.tensor import Tensor

CONTAINERS: dict[str, "Container"] = {}
"""Every container by its name; each file of this folder registers its own."""


class Write(Protocol):
    """Write an artifact: tensors come one at a time in file order, with runtime names."""

    def __call__(
        self,
        path: Path,
        arch: Arch,
        tensors: Iterable[Tensor],
        source: Path,
        extra: dict[str, Any],
        *,
        overwrite: bool = False,
    ) -> None: ...


@dataclass(frozen=True)
class Container:
    """One kind of artifact."""

    name: str
    suffix: str
    """Of the artifact's file or folder name, such as ".gguf"."""
    widest: str
    """Type of a row that no block of the container divides."""
    holds: Callable[[Block], bool]
    """Whether tensors of a block type can be stored."""
    write: Write

    def __post_init__(self) -> None:
        CONTAINERS[self.name] = self
