"""The graphs, tables and small files of an ONNX folder, and what they must be."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export import genai
from export.onnx_data import DATA, rope_arrays
from export.onnx_graphs import graphs_of, planned
from export.onnx_vision import VISION_DATA, StoredTower, planned_tower
from export.sight import Sight
from export.stated import Stated, files_of, json_or_bytes
from runtime.archs import Arch
from runtime.onnx_file import (
    EMBEDDING_MODEL,
    MODEL,
    VISION_MODEL,
    layouts_of,
    load_graph,
    maker,
    matrices,
    stored_arrays,
)
from runtime.quant_types import QUANT_TYPES, QuantType
from runtime.vision.vision import Vision

GRAPHS = frozenset({MODEL, EMBEDDING_MODEL, VISION_MODEL, DATA, VISION_DATA})
"""What is no small file."""
CONFIG = "genai_config.json"
MEANT = ("vocab_size", "context_length", "decoder")
"""What genai_config.json of another builder says in the same words."""
NAMES = ("filename", "session_options", "inputs", "outputs", "sliding_window")
"""What it says of its decoder's graph, which has names of its own."""


def stated(path: Path, arch: Arch, source: Path, vision: Vision | None) -> Stated:
    """All that a folder says of a model with these sizes, made from the folder `source`.

    Raises EdgequantError for a folder that cannot be read.
    """
    if maker(path) != "edgequant":
        return foreign(path, arch, source)
    names = [name for name in (MODEL, EMBEDDING_MODEL, VISION_MODEL) if (path / name).exists()]
    models = {name: load_graph(path, name) for name in names}
    packed = {n: qtype for model in models.values() for n, qtype in layouts_of(model).items()}
    sight = None
    if vision and VISION_MODEL in models:
        sight = Sight(vision, {n: t for n, t in packed.items() if n in vision.tower.shapes()})
    layouts = {
        name: packed.get(next(iter(matrices(name, shape))), QUANT_TYPES["F32"])
        for name, shape in arch.shapes().items()
    }
    expected = expected_graphs(arch, layouts, sight, accuracy_level(models[MODEL]))
    small = genai.small_files(arch, source, sight)
    for name in genai.left_out(path):
        small.pop(name, None)
    files = files_of(path, small, GRAPHS)
    found: dict[str, Any] = {name: dict(facts(model)) for name, model in models.items()}
    due: dict[str, Any] = {name: dict(facts(model)) for name, model in expected.items()}
    return Stated(
        found | tables(path, models[MODEL], arch) | dict(files.found),
        due | right_tables(arch) | dict(files.expected),
        whole=True,
    )


def expected_graphs(
    arch: Arch, layouts: Mapping[str, QuantType], sight: Sight | None, level: int
) -> dict[str, onnx.ModelProto]:
    """The graphs of a folder with weights of these types, by their files."""
    made = graphs_of(arch, layouts, planned(arch, layouts).protos, {}, sight, level)
    if sight:
        tower = StoredTower(sight)
        graph = tower.graph(planned_tower(tower))
        made[VISION_MODEL] = onnx.load_model_from_string(graph)
    return made


def accuracy_level(model: onnx.ModelProto) -> int:
    """That of a graph's products: a choice of who wrote it."""
    nodes = (node for node in model.graph.node if node.op_type == "MatMulNBits")
    levels = (a.i for node in nodes for a in node.attribute if a.name == "accuracy_level")
    return next(levels, 4)


def facts(model: onnx.ModelProto) -> Iterator[tuple[str, Any]]:
    """What a graph computes, by names: its nodes, constants, and the forms of its arrays."""
    graph = model.graph
    for node in graph.node:
        values = {a.name: plain(helper.get_attribute_value(a)) for a in node.attribute}
        told = {"operator": f"{node.domain}.{node.op_type}" if node.domain else node.op_type}
        yield node.name, told | {"inputs": list(node.input), "outputs": list(node.output)} | values
    for proto in graph.initializer:
        if proto.data_location == TensorProto.EXTERNAL:
            kind = TensorProto.DataType.Name(proto.data_type)
            yield f"array {proto.name}", {"type": kind, "shape": list(proto.dims)}
        else:
            yield f"constant {proto.name}", plain(proto)
    for side, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            yield f"{side} {value.name}", str(value.type)
    yield "opsets", {opset.domain or "ai.onnx": opset.version for opset in model.opset_import}


def plain(value: Any) -> Any:
    """The value of an attribute or of a constant, as it can be compared and shown."""
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value


def tables(path: Path, model: onnx.ModelProto, arch: Arch) -> dict[str, Any]:
    """The stored cosines and sines, by the names that they must have."""
    stored = stored_arrays(path, model)
    return {
        array.name: stored[array.name].read().view("<f4").reshape(stored[array.name].shape)
        for array, _ in rope_arrays(arch)
        if array.name in stored
    }


def right_tables(arch: Arch) -> dict[str, np.ndarray]:
    """What they must be."""
    return {array.name: np.concatenate(list(pieces)) for array, pieces in rope_arrays(arch)}


def foreign(path: Path, arch: Arch, source: Path) -> Stated:
    """The sizes in another builder's genai_config.json, and the ids at which it stops."""
    file = path / CONFIG
    if not file.exists():
        return Stated({}, {}, whole=False)
    found = json_or_bytes(file.read_bytes())
    expected = json_or_bytes(genai.small_files(arch, source)[CONFIG])
    return Stated(sizes(found, CONFIG), sizes(expected, CONFIG), whole=False)


def sizes(config: Any, name: str) -> dict[str, Any]:
    """What both say in the same words."""
    model = config.get("model") if isinstance(config, dict) else None
    if not isinstance(model, dict):
        return {name: config}
    told = {f"{name}: {key}": model[key] for key in MEANT[:2] if key in model}
    decoder = model.get("decoder")
    if isinstance(decoder, dict):
        told |= {f"{name}: decoder.{k}": v for k, v in decoder.items() if k not in NAMES}
    ends = model.get("eos_token_id")
    return told | {f"{name}: eos_token_id": sorted(ends if isinstance(ends, list) else [ends])}
