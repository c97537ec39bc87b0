"""The language model of an ONNX folder that reads images: its embeddings and its places.

    embedding.onnx   input_ids, image_features -> inputs_embeds
    model.onnx       inputs_embeds, position_ids (3, B, T) -> logits

Every token of an image takes the next row of `image_features`; tokens beyond the last row keep the
embedding of their id. Weights of both graphs are in one data file.
"""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import onnx
from onnx import TensorProto, helper

from export import onnx_nodes
from export.onnx_nodes import Graph, Nodes
from export.onnx_tower import FEATURES
from export.onnx_whole import Whole, shaped
from runtime.archs import Arch
from runtime.archs.qwen2vl import VisionArch
from runtime.rope import Rope

EMBEDS, PLACES = "inputs_embeds", "position_ids"


def inputs(arch: Arch) -> list[onnx.ValueInfoProto]:
    """What model.onnx reads in place of input_ids."""
    value, batch = helper.make_tensor_value_info, ["batch_size", "sequence"]
    return [
        value(EMBEDS, TensorProto.FLOAT, [*batch, arch.hidden]),
        value(PLACES, TensorProto.INT64, [3, *batch]),
    ]


def embedding_model(
    graph: Graph, image_token: int, initializers: list[onnx.TensorProto]
) -> onnx.ModelProto:
    """embedding.onnx, with those of the initializers that it reads."""
    words = onnx_nodes.embed(graph)
    token = graph.constant("image.token", image_token, np.int64)
    there = graph.op("Equal", ["input_ids", token], "image.there")
    where = graph.op("NonZero", [there], "image.axes")
    where = graph.op("Transpose", [where], "image.where", perm=[1, 0])  # (images' tokens, 2)
    first = graph.constant("image.first", [0], np.int64)
    shape = graph.op("Shape", [FEATURES], "image.rows", end=1)
    taken = graph.op("Slice", [where, first, shape], "image.taken")
    graph.op("ScatterND", [words, taken, FEATURES], EMBEDS)
    value, width = helper.make_tensor_value_info, graph.arch.hidden
    batch = ["batch_size", "sequence"]
    ids = value("input_ids", TensorProto.INT64, batch)
    images = value(FEATURES, TensorProto.FLOAT, ["embeddings", width])
    out = value(EMBEDS, TensorProto.FLOAT, [*batch, width])
    stored = read_by(graph, initializers)
    return onnx_nodes.whole_model(graph, "embedding", [ids, images], [out], stored)


def read_by(graph: Nodes, initializers: list[onnx.TensorProto]) -> list[onnx.TensorProto]:
    """Those that a node reads."""
    read = {name for node in graph.nodes for name in node.input}
    return [proto for proto in initializers if proto.name in read]


def axis_tables(
    graph: Graph, ropes: Mapping[tuple[Rope, int], str]
) -> dict[tuple[Rope, int], list[str]]:
    """For every rope the numbers (B, T) of this pass's tokens, and cos and sin of each of them.

    Each axis turns its own section of the channels.
    """
    arch = graph.arch
    assert isinstance(arch, VisionArch)
    axes = [_axis(graph, axis) for axis in range(3)]
    shape = graph.op("Shape", [PLACES], "places.shape", start=1)
    count = Whole(graph, graph.op("Shape", [axes[0]], "places.count"))[0]
    numbers = graph.op("Reshape", [count.counted().name, shape], "places.numbers")
    ends = np.cumsum((0, *arch.sections)).tolist()
    found = {}
    for key, name in ropes.items():
        sides = []
        for side in ("cos", "sin"):
            parts = [
                _section(graph, f"{name}.{side}", axis, number, ends)
                for number, axis in enumerate(axes)
            ]
            sides.append(graph.op("Concat", parts, f"{name}.axes.{side}", axis=1))
        found[key] = [numbers, *sides]
    return found


def _axis(graph: Graph, axis: int) -> str:
    """Places of all tokens on an axis, one after the other: (B * T,)."""
    index = graph.constant(f"places.axis.{axis}", axis, np.int64)
    one = graph.op("Gather", [PLACES, index], f"places.{axis}", axis=0)
    return shaped(graph, one, (-1,), f"places.{axis}.flat")


def _section(graph: Graph, table: str, axis: str, number: int, ends: list[int]) -> str:
    """The channels of one axis: (B * T, its pairs)."""
    start, stop = list(pairwise(ends))[number]
    rows = graph.op("Gather", [table, axis], f"{table}.{number}.rows", axis=0)
    bounds = [graph.constant(f"places.at.{at}", [at], np.int64) for at in (start, stop)]
    column = graph.constant("places.column", [1], np.int64)
    return graph.op("Slice", [rows, *bounds, column], f"{table}.{number}")
