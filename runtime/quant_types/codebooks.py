"""The points that codes of the IQ1, IQ2 and IQ3 types name: tables of their formats.

The gguf package has them. It is loaded when the first weight of such a type is read.
"""

from functools import cache

import numpy as np

EIGHTHS = ("IQ1_S", "IQ1_M")
"""Types whose points are shifted by an eighth, so that codes are counted in eighths."""


@cache
def codebook(name: str) -> np.ndarray:
    """The points of a type by its name, int8 (points, weights of a point), read-only.

    Those of IQ1_S and IQ1_M come eightfold.
    """
    from gguf import quants

    kind = getattr(quants, name)
    kind.init_grid()
    points = kind.grid.reshape(kind.grid_shape) * (8 if name in EIGHTHS else 1)
    table = np.ascontiguousarray(points, np.int8)
    table.setflags(write=False)
    return table
