"""Linears of one input that a GGUF stores as one tensor: the rows of each below those before it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from runtime.archs import FAMILIES, Arch

if TYPE_CHECKING:
    from runtime.gguf_file import TensorInfo


def joined(arch: Arch, table: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Name of each tensor that holds several weights -> their names, in the order of their rows.

    `table` says it of the linears of a layer.
    """
    return {
        f"blk.{index}.{stored}.weight": tuple(f"blk.{index}.{part}.weight" for part in parts)
        for index in range(arch.layers)
        for stored, parts in table.items()
    }


def written(arch: Arch) -> dict[str, tuple[str, ...]]:
    """The tensors of a file that our writer joins; see `joined`."""
    return joined(arch, FAMILIES[arch.family].gguf_joined)


def split(arch: Arch, infos: Mapping[str, "TensorInfo"]) -> dict[str, "TensorInfo"]:
    """The lines of a file's table, with one for each weight in place of a tensor of several.

    A tensor of another height than its weights have together is left as it is.
    """
    family, shapes = FAMILIES[arch.family], arch.shapes()
    known = joined(arch, family.gguf_joined | family.gguf_may_join)
    found: dict[str, TensorInfo] = {}
    for name, info in infos.items():
        parts = known.get(name, ())
        if not parts or info.shape != stacked(shapes, parts):
            found[name] = info
            continue
        first = 0
        for part in parts:
            found[part] = info.rows_alone(part, first, shapes[part][0])
            first += shapes[part][0]
    return found


def stacked(shapes: Mapping[str, tuple[int, ...]], parts: tuple[str, ...]) -> tuple[int, ...]:
    """Shape of the tensor that holds these matrices."""
    return (sum(shapes[part][0] for part in parts), shapes[parts[0]][1])
