"""Read the sizes in a GGUF's metadata, each checked."""

from collections.abc import Mapping
from reprlib import Repr
from typing import Any

import numpy as np

from runtime.errors import CorruptFileError, EdgequantError

SHORT = Repr()
"""How a value is shown: an array may be a whole vocabulary."""
SHORT.maxlist, SHORT.maxstring, SHORT.maxother = 64, 200, 100


class GgufKeys:
    """The metadata keys of one architecture, checked when they are read."""

    def __init__(self, metadata: Mapping[str, Any], family: str) -> None:
        self.metadata, self.family = metadata, family

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number from 1 to 2**31 - 1. Raises EdgequantError for anything else."""
        value = self.metadata.get(f"{self.family}.{key}", default)
        if type(value) is not int or not 1 <= value < 2**31:
            raise self.wrong(key, value, "a whole number above 0 and below 2**31 is needed")
        return value

    def size(self, key: str) -> int | None:
        """A whole number above 0; None for 0 or a missing key. Raises as `count` does."""
        value = self.metadata.get(f"{self.family}.{key}", 0)
        return None if isinstance(value, int) and value == 0 else self.count(key)

    def flag(self, key: str, default: bool) -> bool:
        """True or false. Raises EdgequantError when it is something else."""
        value = self.metadata.get(f"{self.family}.{key}", default)
        if not isinstance(value, bool):
            raise self.wrong(key, value, "true or false is needed")
        return value

    def whole_numbers(self, key: str, need: str) -> tuple[int, ...]:
        """An array of whole numbers. Raises EdgequantError, saying `need`, when it is none."""
        value = plain(self.metadata.get(f"{self.family}.{key}"))
        if not isinstance(value, list) or any(type(part) is not int for part in value):
            raise self.wrong(key, value, need)
        return tuple(value)

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
            f"the GGUF's {self.family}.{key} is {SHORT.repr(plain(value))}, but {need}; convert "
            "the model again."
        )


def plain(value: Any) -> Any:
    """A value with arrays of numbers as lists."""
    return value.tolist() if isinstance(value, np.ndarray) else value
