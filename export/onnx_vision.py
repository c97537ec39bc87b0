"""The vision tower of an ONNX folder: a graph (onnx_tower.py) and a data file of its own.

    vision.onnx        the graph
    vision.onnx.data   every weight, as model.onnx.data has those of the language model

The linears have the types that were asked for, rounded to nearest. What maps pixels to patches,
half a percent of the weights, stays F32: no block divides its rows. MLPs get channels of zeros
where the blocks do not divide theirs: 3,420 become 3,424.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from export.mmproj import padded
from export.onnx_data import ALIGNMENT, DataFile, Places, weight_arrays, weight_values
from export.onnx_nodes import Nodes
from export.onnx_tower import tower_model, tower_nodes
from export.sight import Sight
from runtime.onnx_file import VISION_MODEL
from runtime.quant_types import QUANT_TYPES, QuantType
from runtime.tensor import Shape, Tensor, rows_and_cols
from runtime.vision.tower import Tower

VISION_DATA = f"{VISION_MODEL}.data"
LEVEL = 0
"""accuracy_level: on a random tower 8-bit activations double what 8-bit weights cost."""
PATCHES = "patch_embed.proj.weight"


def linears(tower: Tower) -> dict[str, int]:
    """Columns of every weight that may be rounded, by its name."""
    shapes = tower.shapes().items()
    return {name: shape[1] for name, shape in shapes if len(shape) == 2}


def wide_tower(tower: Tower, types: Mapping[str, QuantType]) -> Tower:
    """A tower whose MLPs are as wide as the blocks of these types need."""
    narrow = [qtype.size for name, qtype in types.items() if linears(tower)[name] == tower.ffn]
    size = math.lcm(*narrow)
    return replace(tower, ffn=-(-tower.ffn // size) * size)


@dataclass(frozen=True)
class StoredTower:
    """A tower as it is stored."""

    sight: Sight

    @property
    def wide(self) -> Tower:
        """With the sizes of the file."""
        return wide_tower(self.sight.vision.tower, self.sight.types)

    @property
    def shapes(self) -> dict[str, Shape]:
        """Every weight: the patches' kernel is a matrix."""
        found = self.wide.shapes()
        return found | {PATCHES: (self.wide.width, self.wide.patch_values)}

    @property
    def layouts(self) -> dict[str, QuantType]:
        """How each is stored."""
        return {name: self.sight.types.get(name, QUANT_TYPES["F32"]) for name in self.shapes}

    def tensors(self) -> Iterator[Tensor]:
        """One at a time, rounded."""
        vision, shapes, layouts = self.sight.vision, self.shapes, self.layouts
        for name, values in padded(vision.tower, self.wide, vision.tensors):
            qtype, shape = layouts[name], shapes[name]
            rows = np.ascontiguousarray(values).reshape(rows_and_cols(shape))
            yield Tensor(name, shape, qtype, qtype.pack(*qtype.quantize(rows)))

    def graph(self, places: Places) -> bytes:
        """vision.onnx."""
        nodes = Nodes(self.shapes, self.layouts, LEVEL)
        tower_nodes(nodes, self.wide)
        model = tower_model(nodes, self.wide, places.protos)
        return model.SerializeToString(deterministic=True)


def write_tower(folder: Path, sight: Sight, alignment: int = ALIGNMENT) -> dict[str, str]:
    """Write both files; returns the hash of each stored array."""
    stored = StoredTower(sight)
    with (folder / VISION_DATA).open("wb") as file:
        data = DataFile(file, Places(alignment=alignment, location=VISION_DATA))
        for tensor in stored.tensors():
            arrays = weight_arrays(tensor.name, tensor.shape, tensor.qtype)
            for array, pieces in zip(arrays, weight_values(tensor), strict=True):
                data.add(array, pieces)
    (folder / VISION_MODEL).write_bytes(stored.graph(data.places))
    return data.sums


def planned_tower(stored: StoredTower) -> Places:
    """Where each array stands in the tower's data file."""
    places, layouts = Places(location=VISION_DATA), stored.layouts
    for name, shape in stored.shapes.items():
        for array in weight_arrays(name, shape, layouts[name]):
            places.add(array)
    return places


def tower_bytes(sight: Sight) -> int:
    """Bytes of both files, exactly."""
    stored = StoredTower(sight)
    places = planned_tower(stored)
    return places.end + len(stored.graph(places))
