"""Faults of the graph and of the small files of an ONNX folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Fault = Callable[[Path], None]
GENAI = "genai_config.json"


def in_json(file: str, *keys: str | int, change: Callable[[Any], Any]) -> Fault:
    """A fault in a value of a JSON file."""

    def fault(folder: Path) -> None:
        path = folder / file
        whole = json.loads(path.read_text())
        at = whole
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = change(at.get(keys[-1]) if isinstance(at, dict) else at[keys[-1]])
        path.write_text(json.dumps(whole))

    return fault


def in_graph(change: Callable[[onnx.ModelProto], None]) -> Fault:
    """A fault in the graph."""

    def fault(folder: Path) -> None:
        model = onnx.load(folder / "model.onnx", load_external_data=False)
        change(model)
        (folder / "model.onnx").write_bytes(model.SerializeToString())

    return fault


def attribute(op_type: str, name: str, value: Any) -> Fault:
    """Another value of an attribute of the last operator of a kind."""

    def change(model: onnx.ModelProto) -> None:
        node = [node for node in model.graph.node if node.op_type == op_type][-1]
        kept = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return in_graph(change)


def cosine(row: int) -> Fault:
    """Another cosine of one position."""

    def fault(folder: Path) -> None:
        model = onnx.load(folder / "model.onnx", load_external_data=False)
        proto = next(p for p in model.graph.initializer if p.name == "rope.cos")
        place = {entry.key: entry.value for entry in proto.external_data}
        with (folder / place["location"]).open("r+b") as file:
            file.seek(int(place["offset"]) + 4 * proto.dims[1] * row)
            file.write(np.float32(0.123).tobytes())

    return fault


def constant(model: onnx.ModelProto) -> None:
    """Another number in a small constant."""
    proto = next(
        p
        for p in model.graph.initializer
        if p.data_location != TensorProto.EXTERNAL and p.dims == []
    )
    values = numpy_helper.to_array(proto)
    proto.CopyFrom(numpy_helper.from_array(values + 1, proto.name))


def other_input(model: onnx.ModelProto) -> None:
    """An addition of something else."""
    node = [node for node in model.graph.node if node.op_type == "MatMulNBits"][1]
    node.input[0] = "token_embd"


def with_file(name: str, content: str) -> Fault:
    """A file that nobody asked for."""
    return lambda folder: (folder / name).write_text(content) and None


def without(name: str) -> Fault:
    """A file that is missing."""
    return lambda folder: (folder / name).unlink()


FAULTS: dict[str, tuple[Fault, str]] = {
    "epsilon of a norm": (
        attribute("SkipSimplifiedLayerNormalization", "epsilon", 1e-5),
        "epsilon",
    ),
    "heads": (attribute("GroupQueryAttention", "num_heads", 8), "num_heads"),
    "heads of the cache": (attribute("GroupQueryAttention", "kv_num_heads", 1), "kv_num_heads"),
    "no rope": (attribute("GroupQueryAttention", "do_rotary", 0), "do_rotary"),
    "a window": (attribute("GroupQueryAttention", "local_window_size", 64), "local_window_size"),
    "a scale of attention": (attribute("GroupQueryAttention", "scale", 0.5), "scale"),
    "soft caps": (attribute("GroupQueryAttention", "softcap", 30.0), "softcap"),
    "interleaved rope": (attribute("GroupQueryAttention", "rotary_interleaved", 1), "interleaved"),
    "another input of a product": (in_graph(other_input), "inputs"),
    "a constant": (in_graph(constant), "constant"),
    "one cosine of position 1": (cosine(1), "rope.cos[1]"),
    "one cosine of position 1000": (cosine(1000), "rope.cos[1000]"),
    "epsilon in config.json": (
        in_json("config.json", "rms_norm_eps", change=lambda x: 1e-5),
        "config.json: rms_norm_eps",
    ),
    "rope base in config.json": (
        in_json("config.json", "rope_theta", change=lambda x: 10001.0),
        "config.json: rope_theta",
    ),
    "another end in genai_config.json": (
        in_json(GENAI, "model", "eos_token_id", change=lambda x: 5),
        "genai_config.json: model.eos_token_id",
    ),
    "context of 16": (
        in_json(GENAI, "model", "context_length", change=lambda x: 16),
        "genai_config.json: model.context_length",
    ),
    "a short answer": (
        in_json(GENAI, "search", "max_length", change=lambda x: 16),
        "genai_config.json: search.max_length",
    ),
    "another temperature": (
        in_json(GENAI, "search", "temperature", change=lambda x: 0.1),
        "genai_config.json: search.temperature",
    ),
    "another beginning": (
        in_json(GENAI, "model", "bos_token_id", change=lambda x: 5),
        "genai_config.json: model.bos_token_id",
    ),
    "another type": (
        in_json(GENAI, "model", "type", change=lambda x: "phi3"),
        "genai_config.json: model.type",
    ),
    "a graph of another name": (
        in_json(GENAI, "model", "decoder", "filename", change=lambda x: "other.onnx"),
        "genai_config.json: model.decoder.filename",
    ),
    "merges out of order": (
        in_json("tokenizer.json", "model", "merges", change=lambda x: [x[1], x[0], *x[2:]]),
        "tokenizer.json: model.merges[0]",
    ),
    "the last merge missing": (
        in_json("tokenizer.json", "model", "merges", change=lambda x: x[:-1]),
        "tokenizer.json: model.merges",
    ),
    "a special token that is none": (
        in_json("tokenizer.json", "added_tokens", 0, "special", change=lambda x: not x),
        "tokenizer.json: added_tokens[0].special",
    ),
    "another end in tokenizer_config.json": (
        in_json("tokenizer_config.json", "eos_token", change=lambda x: "x"),
        "tokenizer_config.json: eos_token",
    ),
    "an altered chat template": (
        in_json("tokenizer_config.json", "chat_template", change=lambda x: f"{x} "),
        "tokenizer_config.json: chat_template",
    ),
    "an end in generation_config.json": (
        in_json("generation_config.json", "eos_token_id", change=lambda x: 5),
        "generation_config.json: eos_token_id",
    ),
    "a file too many": (with_file("chat_template.jinja", "x"), "chat_template.jinja"),
    "a file missing": (without("generation_config.json"), "generation_config.json"),
    "no JSON": (with_file(GENAI, "{"), GENAI),
}
"""What went wrong -> how, and what names it."""
