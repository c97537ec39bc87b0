"""Arrays of a checkpoint that an adapter changes, computed in float32 each time they are read.

base array -> float32 -> Change -> MergedArray -> join -> Tensor
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from runtime.stored import ComputedArray, StoredArray, rows_of
from runtime.tensor import Shape

CHUNK = 1 << 22
"""Values of a product that stand beside the weight at a time."""


class Change(Protocol):
    """What an adapter does to one array."""

    @property
    def arrays(self) -> tuple[StoredArray, ...]:
        """Those that it reads."""

    def fits(self, shape: Shape) -> bool:
        """Whether an array of this shape can be changed so."""

    def apply(self, values: np.ndarray) -> None:
        """Change float32 values of the base's shape in place."""


@dataclass(frozen=True)
class MergedArray(ComputedArray):
    """A base's array and what is done to it; it lies nowhere, and is F32."""

    base: StoredArray
    change: Change

    def read(self) -> np.ndarray:
        """Its bytes: uint8 (nbytes,), computed now; whoever keeps them keeps float32."""
        values = float32(self.base)
        self.change.apply(values)
        return values.reshape(-1).view(np.uint8)

    @property
    def parts(self) -> tuple[StoredArray, ...]:
        return (self.base, *self.change.arrays)


def merged(base: StoredArray, change: Change) -> MergedArray:
    """An array with a change, by the name and in the place of the base's."""
    return MergedArray(base.file, "F32", base.shape, base.start, base, change)


def float32(array: StoredArray) -> np.ndarray:
    """An array's values, float32 of its shape, and nobody else's."""
    values = rows_of("", array.shape, [array]).decode()
    return np.array(values, np.float32).reshape(array.shape)


@dataclass(frozen=True)
class LowRank:
    """W + scale B A of LoRA (Hu et al. 2021), for W (out, in), A (rank, in) and B (out, rank).

    An embedding's factors are kept the other way round: W (vocab, hidden) + scale (B A)^T, for
    A (rank, vocab) and B (hidden, rank). With a magnitude, DoRA (Liu et al. 2024): the sum is
    scaled so that the rows of W, or the columns of an embedding, get these lengths.
    """

    a: StoredArray
    b: StoredArray
    scale: float
    embedding: bool = False
    magnitude: StoredArray | None = None

    @property
    def arrays(self) -> tuple[StoredArray, ...]:
        return (self.a, self.b, *([self.magnitude] if self.magnitude else []))

    def fits(self, shape: Shape) -> bool:
        if len(shape) != 2 or len(self.a.shape) != 2:
            return False
        outputs, inputs = shape[::-1] if self.embedding else shape
        rank = self.a.shape[0]
        right = self.magnitude is None or self.magnitude.shape == (outputs,)
        return right and self.a.shape == (rank, inputs) and self.b.shape == (outputs, rank)

    def apply(self, values: np.ndarray) -> None:
        left, right = float32(self.b), float32(self.a)
        if self.embedding:
            # the same product as for a head with these factors turned: a tied pair stays equal
            left, right = np.ascontiguousarray(right.T), np.ascontiguousarray(left.T)
        step = max(1, CHUNK // values.shape[1])
        for start in range(0, len(values), step):
            product = left[start : start + step] @ right
            values[start : start + step] += product * np.float32(self.scale)
        if self.magnitude is not None:
            lengths = np.linalg.norm(values, axis=0 if self.embedding else 1, keepdims=True)
            with np.errstate(divide="ignore", invalid="ignore"):  # told where values are checked
                values *= float32(self.magnitude).reshape(lengths.shape) / lengths


@dataclass(frozen=True)
class Unchanged:
    """The same values in float32: what is put together with a changed array has its type."""

    arrays: tuple[StoredArray, ...] = ()

    def fits(self, shape: Shape) -> bool:
        return True

    def apply(self, values: np.ndarray) -> None:
        """Nothing to do."""


@dataclass(frozen=True)
class AddBias:
    """A bias and scale times that of B."""

    bias: StoredArray
    scale: float

    @property
    def arrays(self) -> tuple[StoredArray, ...]:
        return (self.bias,)

    def fits(self, shape: Shape) -> bool:
        return self.bias.shape == shape

    def apply(self, values: np.ndarray) -> None:
        values += float32(self.bias) * np.float32(self.scale)


@dataclass(frozen=True)
class SetRows:
    """New rows of an embedding, (rows, hidden), for the tokens that were trained."""

    rows: StoredArray
    tokens: tuple[int, ...]

    @property
    def arrays(self) -> tuple[StoredArray, ...]:
        return (self.rows,)

    def fits(self, shape: Shape) -> bool:
        rows = self.rows.shape == (len(self.tokens), *shape[1:])
        return len(shape) == 2 and rows and max(self.tokens, default=0) < shape[0]

    def apply(self, values: np.ndarray) -> None:
        values[list(self.tokens)] = float32(self.rows)
