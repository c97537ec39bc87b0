"""What is known of a format that is read: how it is recognised, opened and run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runtime.model import Model


@dataclass(frozen=True)
class Reader:
    """One kind of file or folder that holds a model."""

    name: str
    described: str
    """What to call it in a message, such as "a .gguf file"."""
    open: Callable[[Path], Model]
    """The tensors as they are stored. Raises EdgequantError for damaged files."""
    magic: bytes = b""
    """The first bytes, where a model is one file."""
    sign: str = ""
    """A file that only such a folder has, where a model is a folder."""
    is_kind: Callable[[Path], bool] = lambda path: True
    """Whether a folder with that file is of this kind, where several have it."""
    engine: str = "native"
    """Backend that runs it unless another is named."""
    parts: Callable[[Path], list[Path]] = lambda path: [path]
    """All files of a model, by one of them."""

    @property
    def is_file(self) -> bool:
        """Whether a model is one file, not a folder."""
        return bool(self.magic)

    def recognises(self, path: Path) -> bool:
        """Whether a path that exists is of this kind, judged by its content."""
        if not self.is_file:
            return (path / self.sign).exists() and self.is_kind(path)
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(self.magic)) == self.magic
