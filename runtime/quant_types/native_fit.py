"""The scale searches in C++ (runtime/native/fit): the same params as the definitions, bit for bit.

Without the compiled module, and for arrays that are not on the CPU, the definitions do the work.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime import compiled


@dataclass(frozen=True)
class NativeSearch:
    """A layout's search in C++, and how its numbers are called."""

    rounder: Any
    """runtime._native.Rounder"""
    names: tuple[str, ...]
    """Params with one number a block, in the order of the numbers."""
    group_names: tuple[str, ...] = ()
    """Params with one number a sub-block, after the others."""

    def fit(self, w: np.ndarray, weight: np.ndarray) -> dict[str, np.ndarray]:
        """Params of float32 w (rows, cols), with the importance (cols,) of `base.shares`."""
        return self.params(self.rounder.fit(w, weight))

    def gptq(self, w: np.ndarray, weight: np.ndarray, *arrays: np.ndarray) -> dict[str, np.ndarray]:
        """Params of a window of GPTQ; see `_native.Rounder.gptq`."""
        return self.params(self.rounder.gptq(w, weight, *arrays))

    def params(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Numbers (rows, blocks, count) float32 -> params: views of them."""
        groups = (numbers.shape[2] - len(self.names)) // max(1, len(self.group_names))
        starts = (len(self.names) + i * groups for i in range(len(self.group_names)))
        return {name: numbers[..., i] for i, name in enumerate(self.names)} | {
            name: numbers[..., start : start + groups]
            for name, start in zip(self.group_names, starts, strict=True)
        }


def native_search(
    qtype: Any,
    family: str,
    names: tuple[str, ...],
    group_names: tuple[str, ...] = (),
    /,
    **facts: Any,
) -> NativeSearch | None:
    """The search of a Block with these facts (see `_native.Rounder`); None where not compiled."""
    if compiled.kernels is None:
        return None
    codes = (qtype.low, qtype.high)
    rounder = compiled.kernels.Rounder(qtype.name, family, qtype.size, qtype.group, codes, **facts)
    return NativeSearch(rounder, names, group_names)
