"""Scales that a rewrite moved from a norm into the linears behind it, found again and undone."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from runtime.model import Model

Scales = Mapping[str, np.ndarray]
"""Name of a weight -> what each of its columns (in,) was multiplied by."""

OFF = 1.5
"""Factor between a norm and the columns behind it that rounding does not explain."""
HEAVY = 0.05
"""Share of the mean energy of a column from which on it is looked at: others are rounded away."""


def folds(original: Model) -> dict[str, tuple[str, ...]]:
    """Each norm that scales can be moved into -> the linears that read it, by their weights."""
    found = {}
    for layer in range(original.arch.layers):
        spec = original.arch.layer(layer)
        for group in spec.groups:
            if group.fold and group.fold not in spec.linears:
                linears = tuple(f"blk.{layer}.{name}.weight" for name in group.linears)
                found[f"blk.{layer}.{group.fold}.weight"] = linears
    return found


def moved(original: Model, artifact: Model) -> dict[str, np.ndarray]:
    """The scales of every weight behind a norm that is not the original's.

    A norm whose values are not finite, or not of one size with the original's, tells nothing.
    """
    scales = dict[str, np.ndarray]()
    for norm, linears in folds(original).items():
        if norm not in artifact.tensors:
            continue
        pair = original.tensors[norm], artifact.tensors[norm]
        before, after = (tensor.decode().reshape(-1).astype(np.float64) for tensor in pair)
        if len(before) != len(after) or not np.isfinite(after).all() or (before == after).all():
            continue
        ones = np.ones(len(before))
        scale = np.divide(before, after, out=ones, where=(before != 0) & (after != 0))
        scales |= dict.fromkeys(linears, scale.astype(np.float32))
    return scales


@dataclass
class Gains:
    """How much larger each column (in,) of a weight is than it should be, by least squares."""

    products: np.ndarray | float = 0.0
    squares: np.ndarray | float = 0.0

    def add(self, values: np.ndarray, before: np.ndarray) -> None:
        """The next rows (n, in) of both."""
        self.products = self.products + np.einsum("rc,rc->c", values, before, dtype=np.float64)
        self.squares = self.squares + np.einsum("rc,rc->c", before, before, dtype=np.float64)

    def off(self) -> np.ndarray:
        """Whether each column (in,) is of another size than rounding explains."""
        squares = np.asarray(self.squares)
        gain = np.divide(self.products, squares, out=np.ones(len(squares)), where=squares > 0)
        return (squares > HEAVY * squares.mean()) & ~((gain > 1 / OFF) & (gain < OFF))


@dataclass
class Columns:
    """The gains of all weights behind moved norms."""

    gains: dict[str, Gains] = field(default_factory=dict)

    def of(self, name: str) -> Gains:
        return self.gains.setdefault(name, Gains())

    def faults(self, original: Model) -> dict[str, str]:
        """Each norm that changed otherwise than all the linears behind it, in a sentence."""
        told = {}
        for norm, linears in folds(original).items():
            found = [self.gains[name].off() for name in linears if name in self.gains]
            if found and (channels := np.flatnonzero(np.logical_and.reduce(found))).size:
                more = f" and {channels.size - 1} more" if channels.size > 1 else ""
                told[norm] = (
                    f"{norm} changed in channel {channels[0]}{more}, and the linears behind it did "
                    "not change the other way"
                )
        return told
