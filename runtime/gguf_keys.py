"""Read the sizes in a GGUF's metadata, each checked."""

from collections.abc import Mapping
from typing import Any

from runtime.errors import CorruptFileError, EdgequantError


class GgufKeys:
    """The metadata keys of one architecture, checked when they are read."""

    def __init__(self, metadata: Mapping[str, Any], family: str) -> None:
        self.metadata, self.family = metadata, family

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number above 0. Raises EdgequantError when it is missing or is not one."""
        value = self.metadata.get(f"{self.family}.{key}", default)
        if not isinstance(value, int) or value < 1:
            raise self.wrong(key, value, "a whole number above 0 is needed")
        return value

    def number(self, key: str) -> float:
        """A finite number above 0. Raises EdgequantError when it is missing or is not one."""
        value = self.metadata.get(f"{self.family}.{key}")
        if not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise self.wrong(key, value, "a number above 0 is needed")
        return float(value)

    def section(self, prefix: str) -> dict[str, Any]:
        """Every key that starts with `prefix`, without the architecture."""
        start = f"{self.family}."
        return {
            k[len(start) :]: v for k, v in self.metadata.items() if k.startswith(start + prefix)
        }

    def wrong(
        self, key: str, value: Any, need: str, kind: type[EdgequantError] = CorruptFileError
    ) -> EdgequantError:
        """The error for a value that cannot be right."""
        return kind(
            f"the GGUF's {self.family}.{key} is {value!r}, but {need}; convert the model again."
        )
