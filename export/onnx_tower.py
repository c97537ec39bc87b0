"""A vision tower in ONNX: the patches of one image to its embeddings.

    pixel_values     (patches, values of a patch) float32
    image_grid_thw   (1, 3) int64: 1, and how many patches the image has each way
    image_features   (embeddings, channels of the language model) float32

The grid tells where each patch stands, and so which angles turn it and which window it is in. In a
block with windows, queries, keys and values are gathered window by window, (windows, patches of a
window, width); windows at the right and at the bottom are filled up with patches that nobody sees.
Names of inputs and outputs are onnxruntime-genai's, which runs several images one by one.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from export import onnx_nodes
from export.onnx_nodes import MICROSOFT, Nodes
from export.onnx_whole import Whole, shaped
from runtime.archs import Norm
from runtime.vision.encode import frequencies
from runtime.vision.tower import EPS, Tower

PIXELS, GRID, FEATURES = "pixel_values", "image_grid_thw", "image_features"


def tower_nodes(graph: Nodes, tower: Tower) -> None:
    """Add every node, from the patches to the embeddings."""
    _Tower(graph, tower, Places.of(graph, tower)).all()


def tower_model(
    graph: Nodes, tower: Tower, initializers: list[onnx.TensorProto]
) -> onnx.ModelProto:
    """The whole model around the nodes."""
    value = helper.make_tensor_value_info
    inputs = [
        value(PIXELS, TensorProto.FLOAT, ["patches", tower.patch_values]),
        value(GRID, TensorProto.INT64, [1, 3]),
    ]
    outputs = [value(FEATURES, TensorProto.FLOAT, ["embeddings", tower.outputs])]
    return onnx_nodes.whole_model(graph, "vision", inputs, outputs, initializers)


@dataclass(frozen=True)
class Places:
    """Where the patches of an image stand, as names of values."""

    turned: list[str]
    """Numbers of the patches (1, patches), cos and sin (patches, channels of a head / 2)."""
    order: str = ""
    """Which embedding's patches stand at each place of the windows, one after the other."""
    back: str = ""
    """At which of these places each embedding's patches stand."""
    seen: str = ""
    """Which patches of a window there are: (windows, patches of a window) int32, 1 or 0."""

    @staticmethod
    def of(graph: Nodes, tower: Tower) -> "Places":
        """Computed from the image's grid."""
        grid = Whole(graph, GRID).shaped(3)
        high, wide = grid[1] // tower.merge, grid[2] // tower.merge  # in embeddings
        turned = _turned(graph, tower, high, wide)
        if not tower.window:
            return Places(turned)
        side = tower.window // (tower.patch * tower.merge)
        across = (wide + (side - 1)) // side  # windows beside each other
        down = (high + (side - 1)) // side
        number = (high * wide).counted()
        row, col = number // wide, number % wide
        window = row // side * across + col // side
        back = window * side**2 + row % side * side + col % side
        place = (down * across * side**2).counted()
        window, inner = place // side**2, place % side**2
        row = window // across * side + inner // side
        col = window % across * side + inner % side
        order = row.least(high - 1) * wide + col.least(wide - 1)
        there = graph.op("And", [row.below(high), col.below(wide)], "windows.there")
        return Places(turned, order.name, back.name, _seen(graph, tower, there, side**2))


def _turned(graph: Nodes, tower: Tower, high: Whole, wide: Whole) -> list[str]:
    """Half of the angles by each patch's row, half by its column."""
    merge = tower.merge
    number = (high * wide * merge**2).counted()
    token, inner = number // merge**2, number % merge**2
    row = token // wide * merge + inner // merge
    col = token % wide * merge + inner % merge
    per = graph.constant("rope.frequencies", frequencies(tower)[None], np.float32)
    angles = []
    for name, place in (("rope.rows", row), ("rope.cols", col)):
        at = graph.op("Cast", [place.shaped(-1, 1).name], name, to=TensorProto.FLOAT)
        angles.append(graph.op("Mul", [at, per], f"{name}.angles"))
    both = graph.op("Concat", angles, "rope.angles", axis=1)
    tables = [graph.op(kind, [both], f"rope.{kind.lower()}") for kind in ("Cos", "Sin")]
    return [number.shaped(1, -1).name, *tables]


def _seen(graph: Nodes, tower: Tower, there: str, places: int) -> str:
    """From which places of the windows there are to which patches."""
    whole = graph.op("Cast", [there], "windows.whole", to=TensorProto.INT32)
    column = shaped(graph, whole, (-1, 1))
    times = graph.constant("windows.times", [1, tower.merge**2], np.int64)
    patches = graph.op("Expand", [column, times], "windows.patches")
    return shaped(graph, patches, (-1, places * tower.merge**2), "windows.seen")


@dataclass
class _Tower:
    """The forward pass of runtime/vision/encode.py, node by node."""

    graph: Nodes
    tower: Tower
    places: Places

    def all(self) -> None:
        tower, graph = self.tower, self.graph
        x = onnx_nodes.linear(graph, "patch_embed.proj", PIXELS)
        x = shaped(graph, x, (1, -1, tower.width), "patches")
        for index in range(tower.depth):
            name = f"blocks.{index}"
            windows = bool(tower.window) and index not in tower.full
            y = self.attention(f"{name}.attn", self.norm(f"{name}.norm1", x), windows)
            x = graph.op("Add", [x, y], f"{name}.seen")
            y = self.mlp(f"{name}.mlp", self.norm(f"{name}.norm2", x))
            x = graph.op("Add", [x, y], name)
        x = self.norm("merger.ln_q", x)
        x = shaped(graph, x, (-1, tower.width * tower.merge**2), "merger.merged")
        x = onnx_nodes.linear(graph, "merger.mlp.0", x)
        x = graph.op("Gelu", [x], "merger.mlp.1", approximate="none")
        onnx_nodes.linear(graph, "merger.mlp.2", x, FEATURES)

    def norm(self, name: str, x: str) -> str:
        """Root mean square, or mean and variance in the older tower."""
        if self.tower.modern:
            op = Norm(name, "", self.tower.width, EPS)
            return onnx_nodes.norm(self.graph, op, name, x, name)
        weights = [f"{name}.weight", f"{name}.bias"]
        return self.graph.op("LayerNormalization", [x, *weights], name, axis=-1, epsilon=EPS)

    def attention(self, name: str, x: str, windows: bool) -> str:
        """x (1, patches, width), each patch seeing its window or the whole image."""
        graph, width = self.graph, self.tower.width
        joined = onnx_nodes.linear(graph, f"{name}.qkv", x)
        names = [f"{name}.{part}" for part in "qkv"]
        q, k, v = graph.several("Split", [joined], names, axis=-1, num_outputs=3)
        q, k = (onnx_nodes.rotated(graph, part, self.places.turned) for part in (q, k))
        inputs = [self.in_windows(part) for part in (q, k, v)] if windows else [q, k, v]
        inputs += ["", self.places.seen] if windows else []
        out = graph.op(
            "MultiHeadAttention", inputs, f"{name}.context", MICROSOFT, num_heads=self.tower.heads
        )
        if windows:
            tokens = shaped(graph, out, (-1, self.tower.merge**2 * width))
            out = graph.op("Gather", [tokens, self.places.back], f"{name}.back", axis=0)
            out = shaped(graph, out, (1, -1, width))
        return onnx_nodes.linear(graph, f"{name}.proj", out)

    def in_windows(self, x: str) -> str:
        """x (1, patches, width) as (windows, patches of a window, width)."""
        graph, tower = self.graph, self.tower
        side = tower.window // tower.patch
        tokens = shaped(graph, x, (-1, tower.merge**2 * tower.width))
        ordered = graph.op("Gather", [tokens, self.places.order], f"{x}.ordered", axis=0)
        return shaped(graph, ordered, (-1, side**2, tower.width))

    def mlp(self, name: str, x: str) -> str:
        """Gated, or of two linears in the older tower."""
        graph = self.graph
        if self.tower.modern:
            gate = onnx_nodes.linear(graph, f"{name}.gate_proj", x)
            up = onnx_nodes.linear(graph, f"{name}.up_proj", x)
            inner = graph.op("Mul", [onnx_nodes.silu(graph, gate), up], f"{name}.gated")
            return onnx_nodes.linear(graph, f"{name}.down_proj", inner)
        inner = onnx_nodes.linear(graph, f"{name}.fc1", x)
        steep = graph.constant("mlp.steep", 1.702, np.float32)
        share = graph.op("Mul", [inner, steep], f"{name}.steep")
        share = graph.op("Sigmoid", [share], f"{name}.sigmoid")
        active = graph.op("Mul", [inner, share], f"{name}.active")
        return onnx_nodes.linear(graph, f"{name}.fc2", active)
