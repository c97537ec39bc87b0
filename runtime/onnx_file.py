"""Read an ONNX folder that export/onnx.py wrote: the same tensors that went in, read on access.

Any engine of ours then runs it, and what it computes can be compared with onnxruntime.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from runtime.archs import family_of
from runtime.blocks import BLOCKS
from runtime.blocks.onnx_int import OnnxInt, onnx_name
from runtime.errors import CorruptFileError, InputError, UnsupportedError
from runtime.model import Model
from runtime.tensor import Tensor
from runtime.tokenizer import Tokenizer, read_json

INT_OPERATORS = ("MatMulNBits", "GatherBlockQuantized")
"""Operators whose attributes say how many bits a weight takes, and how many share a scale."""


def is_onnx(path: Path) -> bool:
    """Whether a path is a folder with an ONNX model in it."""
    return (path / "model.onnx").exists()


def open_onnx(folder: Path) -> Model:
    """The model in a folder with model.onnx, model.onnx.data, config.json and a tokenizer.

    Raises EdgequantError when a file is missing, cut, or not written by edgequant, and when the
    onnx package is not installed.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    if not config:
        raise CorruptFileError(
            f"{folder} has no config.json; copy the one of the original checkpoint into it."
        )
    arch = family_of(config).arch(config)
    tensors = OnnxTensors(folder, family_of(config).shapes(arch))
    has_tokenizer = (folder / "tokenizer.json").exists()
    return Model(arch, tensors, Tokenizer.from_folder(folder) if has_tokenizer else None)


def metadata(folder: Path) -> dict[str, str]:
    """What the writer noted in the model: name -> text. Errors as in `open_onnx`."""
    return {entry.key: entry.value for entry in _load(Path(folder)).metadata_props}


def maker(folder: Path) -> str | None:
    """The program that made the graph, "other" for a graph of ours that another one quantized.

    None where the graph names nobody. Errors as in `open_onnx`.
    """
    model = _load(Path(folder))
    name = str(model.producer_name) or None
    foreign = any(
        node.op_type in INT_OPERATORS and not any(n.endswith(".scale") for n in node.input)
        for node in model.graph.node
    )
    # a quantizer that keeps the producer of the graph it was given names its scales otherwise
    return "other" if name == "edgequant" and foreign else name


class OnnxTensors(Mapping[str, Tensor]):
    """Runtime name -> Tensor; the data file is mapped, a record is put together when asked for."""

    def __init__(self, folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
        model = _load(folder)
        self.shapes = shapes
        self.layouts = _layouts(model)
        self.arrays = _map(folder, model)
        for name, shape in shapes.items():
            for stored, expected in _stored(name, shape, self.layouts.get(name)).items():
                _check_array(folder / "model.onnx", stored, self.arrays.get(stored), expected)

    def __getitem__(self, name: str) -> Tensor:
        shape = self.shapes[name]
        if name in self.layouts:
            layout = self.layouts[name]
            zeros = None if layout.symmetric else self.arrays[f"{name}.zero"]
            quants, scales = self.arrays[f"{name}.q"], self.arrays[f"{name}.scale"]
            quants = quants.reshape(*scales.shape, -1)  # an embedding's are (rows, codes' bytes)
            return Tensor(name, shape, layout, layout.join_parts(quants, scales, zeros))
        rows = shape[0] if len(shape) == 2 else 1
        return Tensor(
            name, shape, BLOCKS["F32"], self.arrays[name].reshape(rows, -1).view(np.uint8)
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


Expected = tuple[str, tuple[int, ...]]
"""What a stored array must be: numpy's dtype string and a shape."""


def _stored(name: str, shape: tuple[int, ...], layout: OnnxInt | None) -> dict[str, Expected]:
    """The arrays that hold one weight."""
    if layout is None:
        return {name: ("<f4", shape)}
    rows, blocks = shape[0], shape[-1] // layout.size
    quants = (rows, blocks, layout.code_bytes)
    parts = {f"{name}.q": ("|u1", quants), f"{name}.scale": ("<f4", (rows, blocks))}
    if not layout.symmetric:
        parts[f"{name}.zero"] = ("|u1", (rows, -(-blocks * layout.code_bits // 8)))
    return parts


def _check_array(path: Path, name: str, found: np.ndarray | None, expected: Expected) -> None:
    """Raise EdgequantError when an array is missing or not as config.json says."""
    if found is None:
        raise UnsupportedError(
            f"{path} has no weight {name}; only folders written by edgequant are read "
            "(onnxruntime still runs others)."
        )
    kind, shape = expected
    # an embedding's codes are (rows, codes' bytes): what counts is rows and all bytes
    alike = found.shape[:1] == shape[:1] and found.size == math.prod(shape)
    if found.dtype.str != kind or not alike:
        raise CorruptFileError(
            f"{name} in {path} is {found.dtype.str} {found.shape}, but its config.json says "
            f"{kind} {shape}; copy both files from the same folder."
        )


def _load(folder: Path) -> Any:
    """model.onnx without its weights."""
    try:
        import onnx
    except ImportError:
        raise UnsupportedError("reading ONNX needs the onnx package; pip install onnx.") from None
    path = folder / "model.onnx"
    if not path.exists():
        raise InputError(f"{folder} has no model.onnx; give the folder that holds it.")
    graph = path.read_bytes()
    try:
        model = onnx.load_model_from_string(graph)
        "".join(_names(model))  # a damaged name is bytes, which join refuses
        return model
    except Exception as error:  # protobuf's own, which has no public stub
        raise CorruptFileError(f"{path} is no ONNX model or was cut; copy it again.") from error


def _names(model: Any) -> Iterator[str]:
    """Every text of the graph that the reader goes by."""
    for node in model.graph.node:
        yield from node.input
    for proto in model.graph.initializer:
        yield proto.name
        for entry in proto.external_data:
            yield from (entry.key, entry.value)
    yield model.producer_name
    for entry in model.metadata_props:
        yield from (entry.key, entry.value)


def _layouts(model: Any) -> dict[str, OnnxInt]:
    """Layout of every weight that an integer operator reads; other writers' have none."""
    out: dict[str, OnnxInt] = {}
    for node in model.graph.node:
        scales = next((name for name in node.input if name.endswith(".scale")), "")
        if node.op_type not in INT_OPERATORS or not scales:
            continue
        facts = {attribute.name: attribute.i for attribute in node.attribute}
        name = scales.removesuffix(".scale")
        bits, size = facts.get("bits", 0), facts.get("block_size", 0)
        layout = BLOCKS.get(onnx_name(bits, size, f"{name}.zero" not in node.input))
        if not isinstance(layout, OnnxInt):
            raise UnsupportedError(
                f"{name} has {bits} bits in blocks of {size}; "
                "only 4 and 8 bits in blocks of 32, 64 and 128 are read."
            )
        out[name] = layout
    return out


def _map(folder: Path, model: Any) -> dict[str, np.ndarray]:
    """Every external initializer of a type we write, as a read-only view of its data file."""
    from onnx import TensorProto

    kinds: dict[int, np.dtype] = {
        TensorProto.FLOAT: np.dtype("<f4"),
        TensorProto.UINT8: np.dtype("u1"),
    }
    files: dict[str, np.ndarray] = {}
    out: dict[str, np.ndarray] = {}
    for proto in model.graph.initializer:
        if proto.data_location != TensorProto.EXTERNAL or proto.data_type not in kinds:
            continue
        kind = kinds[proto.data_type]
        location, start = _place(folder, proto)
        stop = start + math.prod(proto.dims) * kind.itemsize
        if location not in files:
            files[location] = _map_file(folder / location)
        if stop > len(files[location]):
            raise CorruptFileError(
                f"{folder / location} has {len(files[location]):,} bytes, but {proto.name} ends at "
                f"{stop:,}; the copy was cut short, copy it again."
            )
        out[proto.name] = files[location][start:stop].view(kind).reshape(tuple(proto.dims))
    return out


def _place(folder: Path, proto: Any) -> tuple[str, int]:
    """File name and offset of an initializer. Refuses a file that lies outside the folder."""
    where = {entry.key: entry.value for entry in proto.external_data}
    location, offset = where.get("location", ""), where.get("offset", "0")
    sound = location and Path(location).name == location and offset.isascii() and offset.isdigit()
    if not sound or min(proto.dims, default=0) < 0:
        raise CorruptFileError(
            f"{folder / 'model.onnx'} places {proto.name} at offset {offset!r} of {location!r}, "
            "which is no place in a file beside it; only folders written by edgequant are read."
        )
    return location, int(offset)


def _map_file(path: Path) -> np.ndarray:
    if not path.exists():
        raise CorruptFileError(f"{path} is missing; copy it next to model.onnx.")
    if path.stat().st_size == 0:
        return np.zeros(0, np.uint8)
    return np.asarray(np.memmap(path, np.uint8, mode="r"))
