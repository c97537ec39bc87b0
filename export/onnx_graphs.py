"""The graphs of an ONNX folder over its one data file, made of sizes and types alone."""

from collections.abc import Mapping
from typing import Any

import onnx
from onnx import helper

from export import onnx_graph, onnx_nodes, onnx_seeing
from export.base import text_of
from export.onnx_data import Places, rope_arrays, weight_arrays
from export.sight import Sight
from runtime.archs import Arch
from runtime.onnx_file import EMBEDDING_MODEL, MODEL
from runtime.quant_types import QuantType


def graphs_of(
    arch: Arch,
    layouts: Mapping[str, QuantType],
    protos: list[onnx.TensorProto],
    extra: dict[str, Any],
    sight: Sight | None,
    accuracy_level: int = 4,
) -> dict[str, onnx.ModelProto]:
    """The graphs over the one data file, by their files; the first has the metadata."""
    graph = onnx_nodes.Graph(arch, dict(layouts), accuracy_level, sees=sight is not None)
    onnx_graph.decoder(graph)
    model = onnx_graph.model(graph, protos)
    helper.set_model_props(model, {key: text_of(extra[key]) for key in sorted(extra)})
    models = {MODEL: model}
    if sight:
        words = onnx_nodes.Graph(arch, dict(layouts), accuracy_level)
        models[EMBEDDING_MODEL] = onnx_seeing.embedding_model(words, sight.ids[1], protos)
    return models


def planned(arch: Arch, layouts: Mapping[str, QuantType]) -> Places:
    """Where every array of the data file stands, when weights of these types come in file order."""
    places = Places()
    for name, shape in arch.shapes().items():
        for array in weight_arrays(name, shape, layouts[name]):
            places.add(array)
    places.add_view(arch, layouts[onnx_nodes.EMBEDDING])
    for array, _ in rope_arrays(arch):
        places.add(array)
    return places
