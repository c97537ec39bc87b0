"""The tensors of a GGUF file: those of the model, some of them joined, and tables of its rope."""

import numpy as np

from export.joined import joined_shapes
from runtime.archs import FAMILIES, Arch
from runtime.gguf_joined import written


def tensor_shapes(arch: Arch) -> dict[str, tuple[int, ...]]:
    """Every tensor of the file: name -> shape."""
    tables = {name: values.shape for name, values in rope_tables(arch).items()}
    return tables | joined_shapes(arch.shapes(), written(arch))


def rope_tables(arch: Arch) -> dict[str, np.ndarray]:
    """Divisors of frequencies, by the tensors that hold them."""
    family = FAMILIES[arch.family]
    return dict(zip(family.gguf_rope_tables, family.gguf_rope(arch), strict=False))
