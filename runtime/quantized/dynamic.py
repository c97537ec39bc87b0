"""`dynamic` of GPTQModel: settings of single modules, by a pattern of their names."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from runtime.errors import CorruptFileError


class Override(msgspec.Struct):
    """What may be otherwise for a module; other settings only say how it was made."""

    bits: int | None = None
    group_size: int | None = None
    sym: bool | None = None
    desc_act: bool | None = None


def changed(dynamic: Mapping[str, Override] | None, module: str) -> dict[str, Any]:
    """The settings of a module that are otherwise: the first pattern that begins its name counts.

    "+:" may stand before a pattern; one after "-:" leaves modules in floats, as their arrays tell.
    Raises CorruptFileError for what is no pattern.
    """
    for pattern, own in (dynamic or {}).items():
        try:
            found = re.match(re.sub(r"^[+-]:", "", pattern), module)
        except re.error as error:
            raise CorruptFileError(
                f"quantization_config: dynamic has {pattern!r}, which is no pattern ({error}); "
                "correct it."
            ) from error
        if found:
            return {k: v for k, v in msgspec.structs.asdict(own).items() if v is not None}
    return {}
