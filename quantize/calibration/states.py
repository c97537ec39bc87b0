"""Hidden states of all windows in one array, which may lie on disk: written, and read in parts."""

from collections.abc import Iterable

import numpy as np
import torch

from quantize.calibration.rows import Rows
from runtime.archs import Arch
from runtime.memory import drop_pages
from runtime.tensor import Tensor


def embed(arch: Arch, table: Tensor, rows: Rows, hidden: np.ndarray) -> None:
    """Write what the first layer reads of rows to hidden (rows, T, D), a window at a time.

    `table` is the embedding of tokens; those of images were made by a vision tower.
    """
    for row, tokens in enumerate(rows.ids):
        hidden[row] = table.qtype.decode(table.data[tokens])
        if arch.embedding_scale != 1.0:
            hidden[row] *= np.float32(arch.embedding_scale)
        if row in rows.images:
            images = rows.images[row].images
            hidden[row, images.rows] = images.values
        drop_pages([hidden, table.data])


def fetch(states: np.ndarray, here: slice | np.ndarray, device: torch.device) -> torch.Tensor:
    """Some rows of states, which may lie on disk, copied to the device."""
    found = np.array(states[here])
    drop_pages([states])
    return torch.from_numpy(found).to(device)


def put(states: np.ndarray, here: slice | np.ndarray, values: np.ndarray) -> None:
    """Replace some rows of states, which may lie on disk."""
    states[here] = values
    drop_pages([states])


def put_all(
    states: np.ndarray | None, places: Iterable[slice], found: Iterable[np.ndarray | None]
) -> None:
    """Replace the rows at some places by what is found for each; without states nothing is kept.

    Raises ValueError when there is not one result for each place.
    """
    ahead, nothing_left = iter(places), slice(0)
    for values in found:
        here = next(ahead, nothing_left)
        if here is nothing_left:
            raise ValueError("more results than places")
        if states is not None and values is not None:
            put(states, here, values)
        del values  # the next ones, which are only computed now, need their room
    if next(ahead, nothing_left) is not nothing_left:
        raise ValueError("fewer results than places")
