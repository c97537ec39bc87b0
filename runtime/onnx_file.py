"""Read an ONNX folder that export/onnx.py wrote: the same tensors that went in, read on access.

Any engine of ours then runs it, and what it computes can be compared with onnxruntime.
"""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from runtime.archs import family_of
from runtime.config_file import read_config
from runtime.errors import CorruptFileError, InputError, UnsupportedError
from runtime.links import check_links
from runtime.model import Model
from runtime.quant_types import QUANT_TYPES
from runtime.quant_types.onnx_int import OnnxInt, onnx_name
from runtime.reader import Reader
from runtime.stored import Expected, MappedFile, Parts, StoredArray, StoredTensors
from runtime.tensor import Shape, Tensor
from runtime.tokenizer import Tokenizer

MODEL = "model.onnx"
EMBEDDING_MODEL = "embedding.onnx"
"""Beside the former in a folder of a model that reads images; their weights are in one data file.
"""
VISION_MODEL = "vision.onnx"
"""The vision tower of such a folder."""

INT_OPERATORS = ("MatMulNBits", "GatherBlockQuantized")
"""Operators whose attributes say how many bits a weight takes, and how many share a scale."""


def open_onnx(folder: Path) -> Model:
    """The model in a folder with model.onnx, model.onnx.data, config.json and a tokenizer.

    Raises EdgequantError when a file is missing, cut, or not written by edgequant, and when the
    onnx package is not installed.
    """
    folder = Path(folder)
    check_links(folder)
    config = read_config(folder)
    if not config:
        raise CorruptFileError(
            f"{folder} has no config.json; copy the one of the original checkpoint into it."
        )
    arch = family_of(config).arch(config)
    tensors = onnx_tensors(folder, arch.shapes())
    has_tokenizer = (folder / "tokenizer.json").exists()
    return Model(arch, tensors, Tokenizer.from_folder(folder) if has_tokenizer else None)


def metadata(folder: Path) -> dict[str, str]:
    """What the writer noted in the model: name -> text. Errors as in `open_onnx`."""
    return {entry.key: entry.value for entry in load_graph(Path(folder)).metadata_props}


def maker(folder: Path) -> str | None:
    """The program that made the graph, "other" for a graph of ours that another one quantized.

    None where the graph names nobody. Errors as in `open_onnx`.
    """
    model = load_graph(Path(folder))
    name = str(model.producer_name) or None
    foreign = any(
        node.op_type in INT_OPERATORS and not any(n.endswith(".scale") for n in node.input)
        for node in model.graph.node
    )
    # a quantizer that keeps the producer of the graph it was given names its scales otherwise
    return "other" if name == "edgequant" and foreign else name


def matrices(name: str, shape: Shape) -> dict[str, Shape]:
    """The parts of a weight that a folder stores apart: itself, or the matrix of each expert."""
    if len(shape) < 3:
        return {name: shape}
    stem = name.removesuffix(".weight")
    return {f"{stem}.{expert}.weight": shape[1:] for expert in range(shape[0])}


def onnx_tensors(folder: Path, shapes: dict[str, Shape]) -> StoredTensors:
    """The weights of these shapes, when the folder holds them all. Errors as in `open_onnx`."""
    layouts: dict[str, OnnxInt] = {}
    arrays: dict[str, StoredArray] = {}
    for name in (MODEL, EMBEDDING_MODEL):
        if name == MODEL or (folder / name).exists():
            model = load_graph(folder, name)
            layouts |= layouts_of(model)
            arrays |= stored_arrays(folder, model)
    weights = {}
    for name, shape in shapes.items():
        if len(shape) > 2 and shape[0] > len(arrays):
            raise CorruptFileError(
                f"{folder} has a config.json with {shape[0]} experts, but {MODEL} holds "
                f"{len(arrays)} arrays; copy both files from the same folder."
            )
        found = {layouts.get(part) for part in matrices(name, shape)}
        if len(found) > 1:
            raise UnsupportedError(
                f"{folder / MODEL} holds the experts of {name} in several types; only folders "
                "written by edgequant are read (onnxruntime still runs others)."
            )
        weights[name] = parts_of(name, shape, found.pop())
    for parts in weights.values():
        for name, expected in parts.arrays.items():
            _check_array(folder / MODEL, name, arrays.get(name), expected)
    return StoredTensors(weights, arrays)


def parts_of(name: str, shape: Shape, qtype: OnnxInt | None) -> Parts:
    """The arrays that hold one weight: codes, scales and zero points, or float32 numbers."""
    parts = matrices(name, shape).items()
    if qtype is None:
        return Parts(shape, {part: Expected(matrix, ("F32",)) for part, matrix in parts})
    arrays = [array for part in parts for array in _matrix_arrays(*part, qtype).items()]
    return Parts(shape, dict(arrays), partial(_join, qtype))


def _matrix_arrays(name: str, shape: Shape, qtype: OnnxInt) -> dict[str, Expected]:
    """The arrays of one matrix."""
    rows, blocks = shape[0], shape[-1] // qtype.size
    arrays = {
        f"{name}.q": Expected((rows, blocks, qtype.code_bytes), ("U8",)),
        qtype.scale_of(name): Expected((rows, blocks), ("F16" if qtype.half else "F32",)),
    }
    if not qtype.symmetric:
        arrays[f"{name}.zero"] = Expected((rows, -(-blocks * qtype.code_bits // 8)), ("U8",))
    if qtype.ordered:
        arrays[f"{name}.order"] = Expected((shape[-1],), ("I32",))
    return arrays


def _join(qtype: OnnxInt, name: str, shape: Shape, arrays: list[StoredArray]) -> Tensor:
    """Codes, scales and, where the layout has them, zero points as rows of blocks."""
    rows, blocks = shape[-2], shape[-1] // qtype.size
    data, order = [], None
    if qtype.ordered:
        *arrays, last = arrays
        order = _order_of(name, last)
    step = 2 if qtype.symmetric else 3  # arrays of one matrix
    for at in range(0, len(arrays), step):
        quants, scales, *zeros = (array.read() for array in arrays[at : at + step])
        records = qtype.join_parts(
            quants.reshape(rows, blocks, -1),  # an embedding's are (rows, codes' bytes)
            scales.view(qtype.scale_type).reshape(rows, blocks),
            zeros[0].reshape(rows, -1) if zeros else None,
        )
        data.append(records)
    joined = np.concatenate(data) if len(data) > 1 else data[0]
    return Tensor(name, shape, qtype, joined, order=order)


def _order_of(name: str, array: StoredArray) -> np.ndarray:
    """The column that each packed one is. Raises CorruptFileError where one comes twice."""
    order = array.read().view("<i4")
    if not np.array_equal(np.sort(order), np.arange(len(order))):
        raise CorruptFileError(
            f"the order of the columns of {name} does not name each once; copy the folder again."
        )
    return order


def _check_array(path: Path, name: str, found: StoredArray | None, expected: Expected) -> None:
    """Raise EdgequantError when an array is missing or not as config.json says."""
    if found is None:
        raise UnsupportedError(
            f"{path} has no weight {name}; only folders written by edgequant are read "
            "(onnxruntime still runs others)."
        )
    shape, dtypes = expected
    # an embedding's codes are (rows, codes' bytes): what counts is rows and all bytes
    alike = found.shape[:1] == shape[:1] and math.prod(found.shape) == math.prod(shape)
    if found.dtype not in dtypes or not alike:
        raise CorruptFileError(
            f"{name} in {path} is {found.dtype} {found.shape}, but its config.json says "
            f"{dtypes[0]} {shape}; copy both files from the same folder."
        )


def load_graph(folder: Path, name: str = MODEL) -> Any:
    """A graph without its weights."""
    try:
        import onnx
    except ImportError:
        raise UnsupportedError("reading ONNX needs the onnx package; pip install onnx.") from None
    path = folder / name
    if not path.exists():
        raise InputError(f"{folder} has no {name}; give the folder that holds it.")
    graph = path.read_bytes()
    try:
        model = onnx.load_model_from_string(graph)
        "".join(_names(model))  # a damaged name is bytes, which join refuses
        return model
    except Exception as error:  # protobuf's own, which has no public stub
        raise CorruptFileError(
            f"{path} is not an ONNX model, or is cut short; copy it again."
        ) from error


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


def layouts_of(model: Any) -> dict[str, OnnxInt]:
    """Layout of every weight that an integer operator reads; other writers' have none."""
    out: dict[str, OnnxInt] = {}
    stored = {proto.name for proto in model.graph.initializer}
    for node in model.graph.node:
        scales = next((name for name in node.input if name.endswith(".scale")), "")
        if node.op_type not in INT_OPERATORS or not scales:
            continue
        facts = {attribute.name: attribute.i for attribute in node.attribute}
        name = scales.removesuffix(".scale")
        bits, size = facts.get("bits", 0), facts.get("block_size", 0)
        symmetric, half = f"{name}.zero" not in node.input, scales not in stored
        ordered = f"{name}.order" in stored
        qtype = QUANT_TYPES.get(onnx_name(bits, size, symmetric, half, ordered))
        if not isinstance(qtype, OnnxInt):
            raise UnsupportedError(
                f"{name} has {bits} bits in blocks of {size}; "
                "only 2, 4 and 8 bits in blocks of 32, 64 and 128 are read."
            )
        out[name] = qtype
    return out


def stored_arrays(folder: Path, model: Any) -> dict[str, StoredArray]:
    """Every external initializer of a type we write, by its name."""
    from onnx import TensorProto

    dtypes: dict[int, str] = {
        TensorProto.FLOAT: "F32",
        TensorProto.FLOAT16: "F16",
        TensorProto.UINT8: "U8",
        TensorProto.INT32: "I32",
    }
    files: dict[str, MappedFile] = {}
    out: dict[str, StoredArray] = {}
    for proto in model.graph.initializer:
        if proto.data_location != TensorProto.EXTERNAL or proto.data_type not in dtypes:
            continue
        location, start = _place(folder, proto)
        path = folder / location
        if not path.exists():
            raise CorruptFileError(f"{path} is missing; copy it next to {MODEL}.")
        file = files.setdefault(location, MappedFile(path))
        array = StoredArray(file, dtypes[proto.data_type], tuple(proto.dims), start)
        size, stop = path.stat().st_size, start + array.nbytes
        if stop > size:
            raise CorruptFileError(
                f"{path} has {size:,} bytes, but {proto.name} ends at {stop:,}; "
                "the copy was cut short, copy it again."
            )
        out[proto.name] = array
    return out


def _place(folder: Path, proto: Any) -> tuple[str, int]:
    """File name and offset of an initializer. Refuses a file that lies outside the folder."""
    where = {entry.key: entry.value for entry in proto.external_data}
    location, offset = where.get("location", ""), where.get("offset", "0")
    sound = location and Path(location).name == location and offset.isascii() and offset.isdigit()
    if not sound or min(proto.dims, default=0) < 0:
        raise CorruptFileError(
            f"{folder / 'model.onnx'} places {proto.name} at offset {offset!r} of {location!r}, "
            "which is not inside a file beside it; only folders written by edgequant are read."
        )
    return location, int(offset)


READER = Reader("onnx", "an ONNX folder", open_onnx, sign=MODEL, engine="onnxruntime")
