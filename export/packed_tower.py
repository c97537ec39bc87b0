"""The vision tower in a folder of packed linears: floats, by the names of the published folders.

vLLM and transformers find it under `visual.`, beside `model.` of the language model, and call the
modules of both otherwise once they are loaded. What stays in floats is told by parts of names:
vLLM looks for a part anywhere, transformers 5 at the start.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from export.shards import Array
from export.sight import Sight
from runtime.errors import UnsupportedError
from runtime.quant_types import QUANT_TYPES, QuantType
from runtime.tensor import rows_and_cols
from runtime.vision.image import FILES

MODULE = "visual"
LOADED = (MODULE, f"model.{MODULE}")
"""What the tower is called once it is loaded: by vLLM, and by transformers 5."""


def tower_arrays(sight: Sight) -> list[Array]:
    """What is stored of a tower. Raises UnsupportedError for a linear that is to be packed."""
    shapes = sight.vision.tower.shapes()
    return [
        Array(f"{MODULE}.{name}", _type(sight, name).name, shape) for name, shape in shapes.items()
    ]


def tower_values(sight: Sight) -> Iterator[np.ndarray]:
    """The values of those arrays."""
    for name, shape in sight.vision.tower.shapes().items():
        values = sight.vision.tensors[name].decode().reshape(rows_and_cols(shape))
        qtype = _type(sight, name)
        yield qtype.pack(*qtype.quantize(np.ascontiguousarray(values)))


def preparation(source: Path) -> dict[str, bytes]:
    """The files that say how images become patches."""
    return {name: (source / name).read_bytes() for name in FILES if (source / name).exists()}


def _type(sight: Sight, name: str) -> QuantType:
    found = sight.types.get(name, QUANT_TYPES["F32"])
    if not found.is_float:
        raise UnsupportedError(
            f"{MODULE}.{name} cannot be {found.name}: readers of this format take the vision tower "
            "in floats; leave the rule out for it."
        )
    return found
