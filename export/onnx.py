"""Write an ONNX folder that onnxruntime runs and onnxruntime-genai loads and generates from.

    model.onnx         the graph, a few hundred kB (onnx_graph.py)
    model.onnx.data    every weight, each at a multiple of 4096 bytes, so that it can be mapped
    genai_config.json  what onnxruntime-genai must know (genai.py)
    tokenizer.json...  the checkpoint's own files, unchanged

Weights pass through one at a time: the model is never whole in memory, and no 2 GB limit applies.
"""

import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, helper

from export import genai, onnx_graph
from export.base import Container
from export.files import new_folder
from runtime.archs import FAMILIES, Arch
from runtime.blocks import Block
from runtime.blocks.onnx_int import OnnxInt
from runtime.errors import EdgequantError
from runtime.tensor import Tensor

ALIGNMENT = 4096
"""Bytes: a tensor starts on a page, so that onnxruntime can map it."""

CHUNK = 1 << 24
"""Bytes read at a time when the written file is compared."""

MODEL, DATA = "model.onnx", "model.onnx.data"


def write(
    folder: Path,
    arch: Arch,
    tensors: Iterable[Tensor],
    source: Path,
    extra: dict[str, Any],
    *,
    overwrite: bool = False,
    accuracy_level: int = 4,
) -> Path:
    """Write `folder` from tensors in any order and return it.

    `source` is the checkpoint's folder (config, tokenizer), `extra` goes into the model's metadata.
    accuracy_level 4 rounds activations to int8 (fast), 0 computes in float32. Raises EdgequantError
    when the folder exists, a tensor is missing or of a type that ONNX cannot hold, or the written
    file does not read back as it was meant.
    """
    folder = Path(folder)
    config = genai.genai_config(arch, source)
    with new_folder(folder, overwrite) as temp:
        with (temp / DATA).open("wb") as file:
            data = _Data(file)
            layouts = _store(data, arch, tensors)
        graph = onnx_graph.Graph(arch, layouts, accuracy_level)
        onnx_graph.decoder(graph)
        model = onnx_graph.model(graph, data.protos)
        helper.set_model_props(model, {key: _text(extra[key]) for key in sorted(extra)})
        (temp / MODEL).write_bytes(model.SerializeToString(deterministic=True))
        genai.copy_files(source, temp)
        (temp / "genai_config.json").write_text(genai.text(config), encoding="utf-8")
        check(temp, data.sums)
    return folder


@dataclass
class _Data:
    """The external data file: what was appended, and a checksum of each piece."""

    file: BinaryIO
    protos: list[onnx.TensorProto] = field(default_factory=list)
    sums: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, values: np.ndarray) -> None:
        """Append an array and describe it as an initializer."""
        offset = -(-self.file.tell() // ALIGNMENT) * ALIGNMENT
        self.file.write(b"\0" * (offset - self.file.tell()))
        plain = np.ascontiguousarray(values)
        raw = plain.reshape(-1).view(np.uint8).data
        self.file.write(raw)
        proto = TensorProto(name=name, dims=values.shape)
        proto.data_type = helper.np_dtype_to_tensor_dtype(values.dtype)
        proto.data_location = TensorProto.EXTERNAL
        for key, value in {"location": DATA, "offset": offset, "length": raw.nbytes}.items():
            proto.external_data.add(key=key, value=str(value))
        self.protos.append(proto)
        self.sums[name] = zlib.crc32(raw)


def _store(data: _Data, arch: Arch, tensors: Iterable[Tensor]) -> dict[str, Block]:
    """Stream every tensor to the data file; returns how each one is stored."""
    shapes = FAMILIES[arch.family].shapes(arch)
    layouts: dict[str, Block] = {}
    for tensor in tensors:
        if tensor.name not in shapes or tensor.name in layouts:
            what = "came twice" if tensor.name in layouts else f"is no tensor of {arch.family}"
            raise EdgequantError(f"{tensor.name} {what}; pass each tensor of the model once.")
        if tensor.shape != shapes[tensor.name]:
            raise EdgequantError(
                f"{tensor.name} has shape {tensor.shape}, but its config.json says "
                f"{shapes[tensor.name]}; take the config.json that came with the weights."
            )
        layouts[tensor.name] = tensor.block
        for name, values in _initializers(tensor):
            data.add(name, values)
    if missing := [name for name in shapes if name not in layouts]:
        raise EdgequantError(
            f"{len(missing)} tensors are missing, the first is {missing[0]}; "
            "pass every tensor of the model."
        )
    cos, sin = arch.rope.tables(0, arch.context, arch.head_dim)
    data.add("rope.cos", cos)
    data.add("rope.sin", sin)
    return layouts


def _initializers(tensor: Tensor) -> Iterator[tuple[str, np.ndarray]]:
    """Name and values of each array that ONNX stores for a tensor; floats become float32."""
    layout = tensor.block
    if isinstance(layout, OnnxInt) and len(tensor.shape) == 2:
        names = onnx_graph.stored_names(tensor.name, layout)
        parts = [part for part in layout.split(tensor.data) if part is not None]
        yield from zip(names, parts, strict=True)
    elif layout.is_float:
        yield tensor.name, tensor.decode().astype("<f4", copy=False)
    else:
        raise EdgequantError(
            f"{tensor.name} is {layout.name}, which ONNX cannot hold; "
            "choose INT4_32, INT8_32 or another INT type, or F32."
        )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def check(folder: Path, sums: dict[str, int]) -> None:
    """Reopen a folder: a valid graph, and every stored array as its checksum (crc32) says.

    Raises EdgequantError naming the first array that differs.
    """
    onnx.checker.check_model(str(folder / MODEL))
    graph = onnx.load(str(folder / MODEL), load_external_data=False).graph
    found = {
        proto.name: {entry.key: entry.value for entry in proto.external_data}
        for proto in graph.initializer
        if proto.data_location == TensorProto.EXTERNAL
    }
    with (folder / DATA).open("rb") as file:
        for name, expected in sums.items():
            where = found.get(name, {})
            file.seek(int(where.get("offset", 0)))
            if _crc(file, int(where.get("length", 0))) != expected:
                raise EdgequantError(
                    f"{name} in {folder / DATA} does not read back as it was written; "
                    "check the disk and write again."
                )


def _crc(file: BinaryIO, length: int) -> int:
    """crc32 of the next bytes of a file."""
    total = 0
    while length > 0 and (chunk := file.read(min(length, CHUNK))):
        total = zlib.crc32(chunk, total)
        length -= len(chunk)
    return total


Container(
    "onnx",
    suffix="-onnx",
    widest="F32",
    holds=lambda layout: isinstance(layout, OnnxInt) or layout.name == "F32",
    write=write,
)
