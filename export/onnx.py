"""Write an ONNX folder that onnxruntime runs and onnxruntime-genai loads and generates from.

    model.onnx         the graph, a few hundred kB (onnx_graph.py)
    model.onnx.data    every weight, each at a multiple of 4096 bytes, so that it can be mapped;
                       cos and sin of every position up to genai.LONGEST_CONTEXT
    genai_config.json  what onnxruntime-genai must know (genai.py)
    tokenizer.json...  the checkpoint's own files, unchanged

Weights pass through one at a time: the model is never whole in memory, and no 2 GB limit applies.
A tied embedding that is quantized is stored once, and read by the embedding and by the head.
"""

import json
import math
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, helper

from export import genai, onnx_graph
from export.base import Container
from export.files import new_folder
from export.onnx_presets import PRESETS
from runtime.archs import FAMILIES, Arch
from runtime.blocks import BLOCKS, Block
from runtime.blocks.onnx_int import OnnxInt
from runtime.errors import EdgequantError
from runtime.onnx_file import is_onnx, maker, metadata, open_onnx
from runtime.tensor import Tensor

ALIGNMENT = 4096
"""Bytes: a tensor starts on a page, so that onnxruntime can map it."""

CHUNK = 1 << 24
"""Bytes read at a time when the written file is compared."""

ROWS_AT_ONCE = 4096
"""Rows of a float weight, or positions of the rope tables, that stand in memory at a time."""

HEAD_MULTIPLE = 16
"""GroupQueryAttention rotates heads of a multiple of so many channels."""

MODEL, DATA = "model.onnx", "model.onnx.data"

USAGE = """```sh
quantize generate {file} "Once upon a time"
```

```python
import onnxruntime_genai as og

model = og.Model("{file}")
tokenizer = og.Tokenizer(model)
params = og.GeneratorParams(model)
params.set_search_options(max_length=100)
generator = og.Generator(model, params)
generator.append_tokens(tokenizer.encode("Once upon a time"))
while not generator.is_done():
    generator.generate_next_token()
print(tokenizer.decode(generator.get_sequence(0)))
```"""


def write(
    path: Path,
    arch: Arch,
    tensors: Iterable[Tensor],
    source: Path,
    extra: dict[str, Any],
    *,
    overwrite: bool = False,
    accuracy_level: int = 4,
) -> None:
    """Write the folder `path` from tensors in any order; F16 and BF16 ones are stored as F32.

    `source` is the checkpoint's folder (config, tokenizer), `extra` goes into the model's metadata.
    accuracy_level 4 rounds activations to int8 (fast), 0 computes in float32. Raises EdgequantError
    when the folder exists, the disk is too small, a tensor is missing or of a type that ONNX cannot
    hold, or the written file does not read back as it was meant.
    """
    _check_heads(arch)
    config = genai.genai_config(arch, source)
    with new_folder(path, overwrite, needed=least_bytes(arch)) as temp:
        with (temp / DATA).open("wb") as file:
            data = _Data(file)
            layouts = _store(data, arch, tensors)
        (temp / MODEL).write_bytes(_model(arch, layouts, data.protos, extra, accuracy_level))
        genai.copy_files(source, temp)
        (temp / "genai_config.json").write_text(genai.text(config), encoding="utf-8")
        check(temp, data.sums)


def size(arch: Arch, types: Mapping[str, Block], source: Path, extra: dict[str, Any]) -> int:
    """Bytes of the folder that `write` makes when its 2-D weights have these types.

    The graph is made as it will be; of the weights only places and lengths are counted. Raises
    EdgequantError for heads that onnxruntime cannot rotate, as `write` does.
    """
    _check_heads(arch)
    layouts = {n: types.get(n, BLOCKS["F32"]) for n in FAMILIES[arch.family].shapes(arch)}
    protos: list[onnx.TensorProto] = []
    end = 0
    for name, dims, kind in _arrays(arch, layouts):
        offset = -(-end // ALIGNMENT) * ALIGNMENT
        length = math.prod(dims) * kind.itemsize
        protos.append(_proto(name, dims, kind, offset, length))
        end = offset + length
    if view := _tied_view(arch, layouts):
        protos.append(_view(*view, protos, f"{onnx_graph.EMBEDDING}.q"))
    model = _model(arch, layouts, protos, extra)
    config = genai.text(genai.genai_config(arch, source)).encode("utf-8")
    with tempfile.TemporaryDirectory() as folder:
        genai.copy_files(source, Path(folder))
        copied = sum(file.stat().st_size for file in Path(folder).iterdir())
    return end + len(model) + len(config) + copied


def _arrays(
    arch: Arch, layouts: Mapping[str, Block]
) -> Iterator[tuple[str, tuple[int, ...], np.dtype]]:
    """Name, shape and type of every array of the data file, in order."""
    single, byte = np.dtype("<f4"), np.dtype(np.uint8)
    for name, shape in FAMILIES[arch.family].shapes(arch).items():
        layout = layouts[name]
        if len(shape) != 2 or not isinstance(layout, OnnxInt):
            yield name, shape, single
            continue
        rows, blocks = shape[0], shape[1] // layout.size
        codes: tuple[int, ...] = (rows, blocks, layout.code_bytes)
        if name == onnx_graph.EMBEDDING:
            codes = (rows, blocks * layout.code_bytes)
        dims: list[tuple[tuple[int, ...], np.dtype]] = [(codes, byte), ((rows, blocks), single)]
        if not layout.symmetric:
            dims.append(((rows, -(-blocks * layout.code_bits // 8)), byte))
        names = onnx_graph.stored_names(name, layout)
        yield from ((n, d, kind) for n, (d, kind) in zip(names, dims, strict=True))
    for name in ("rope.cos", "rope.sin"):
        yield name, (genai.context_length(arch), arch.head_dim // 2), single


def _model(
    arch: Arch,
    layouts: Mapping[str, Block],
    protos: list[onnx.TensorProto],
    extra: dict[str, Any],
    accuracy_level: int = 4,
) -> bytes:
    """The graph with its metadata, as it stands in model.onnx."""
    graph = onnx_graph.Graph(arch, dict(layouts), accuracy_level)
    onnx_graph.decoder(graph)
    model = onnx_graph.model(graph, protos)
    helper.set_model_props(model, {key: _text(extra[key]) for key in sorted(extra)})
    return model.SerializeToString(deterministic=True)


def _tied_view(arch: Arch, layouts: Mapping[str, Block]) -> tuple[str, tuple[int, ...]] | None:
    """Name and shape under which the head reads the codes of a tied embedding."""
    layout = layouts[onnx_graph.EMBEDDING]
    if not arch.tied or not isinstance(layout, OnnxInt):
        return None
    return onnx_graph.TIED_BLOCKS, (arch.vocab, arch.hidden // layout.size, layout.code_bytes)


def least_bytes(arch: Arch) -> int:
    """Bytes of the weights in ONNX's smallest layout, and of the rope tables: no folder is smaller.

    Tensors come one at a time, so this is all that is known of the size before the first one.
    """
    bits = min(layout.bits for layout in BLOCKS.values() if isinstance(layout, OnnxInt))
    shapes = FAMILIES[arch.family].shapes(arch).values()
    weights = sum(math.prod(shape) * (bits / 8 if len(shape) == 2 else 4) for shape in shapes)
    return int(weights) + 2 * genai.context_length(arch) * arch.head_dim // 2 * 4


def _check_heads(arch: Arch) -> None:
    """Refuse heads that onnxruntime would refuse when it runs the finished file."""
    if arch.head_dim % HEAD_MULTIPLE:
        raise EdgequantError(
            f"the heads have {arch.head_dim} channels, and onnxruntime's GroupQueryAttention "
            f"rotates only multiples of {HEAD_MULTIPLE}; write a GGUF file instead."
        )


@dataclass
class _Data:
    """The external data file: what was appended, and a checksum of each piece."""

    file: BinaryIO
    protos: list[onnx.TensorProto] = field(default_factory=list)
    sums: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, dims: tuple[int, ...], pieces: Iterable[np.ndarray]) -> None:
        """Append an array, given in pieces along its first axis, as an initializer."""
        offset = -(-self.file.tell() // ALIGNMENT) * ALIGNMENT
        self.file.seek(offset)  # the gap reads as zeros
        checksum = 0
        kind = np.dtype(np.uint8)
        for piece in pieces:
            kind = piece.dtype
            raw = np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data
            self.file.write(raw)
            checksum = zlib.crc32(raw, checksum)
        length = self.file.tell() - offset
        self.protos.append(_proto(name, dims, kind, offset, length))
        self.sums[name] = checksum

    def add_view(self, name: str, dims: tuple[int, ...], of: str) -> None:
        """Describe the bytes of an array that is there once more, under another name and shape."""
        self.protos.append(_view(name, dims, self.protos, of))
        self.sums[name] = self.sums[of]


def _proto(
    name: str, dims: tuple[int, ...], kind: np.dtype, offset: int, length: int
) -> onnx.TensorProto:
    """An initializer that stands in the data file."""
    proto = TensorProto(name=name, dims=dims, data_location=TensorProto.EXTERNAL)
    proto.data_type = helper.np_dtype_to_tensor_dtype(kind)
    for key, value in {"location": DATA, "offset": offset, "length": length}.items():
        proto.external_data.add(key=key, value=str(value))
    return proto


def _view(
    name: str, dims: tuple[int, ...], protos: list[onnx.TensorProto], of: str
) -> onnx.TensorProto:
    """The initializer `of` once more, under another name and shape."""
    proto = TensorProto()
    proto.CopyFrom(next(proto for proto in protos if proto.name == of))
    proto.name = name
    proto.ClearField("dims")
    proto.dims.extend(dims)
    return proto


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
        for name, dims, pieces in _initializers(tensor):
            data.add(name, dims, pieces)
    if missing := [name for name in shapes if name not in layouts]:
        raise EdgequantError(
            f"{len(missing)} tensors are missing, the first is {missing[0]}; "
            "pass every tensor of the model."
        )
    if view := _tied_view(arch, layouts):
        data.add_view(*view, of=f"{onnx_graph.EMBEDDING}.q")
    dims = (genai.context_length(arch), arch.head_dim // 2)
    for side, name in enumerate(("rope.cos", "rope.sin")):
        data.add(name, dims, _rope_rows(arch, side))
    return layouts


def _initializers(
    tensor: Tensor,
) -> Iterator[tuple[str, tuple[int, ...], Iterable[np.ndarray]]]:
    """Name, shape and pieces of each array that ONNX stores for a tensor; floats become float32."""
    layout = tensor.block
    if isinstance(layout, OnnxInt) and len(tensor.shape) == 2:
        names = onnx_graph.stored_names(tensor.name, layout)
        parts = [part for part in layout.split(tensor.data) if part is not None]
        if tensor.name == onnx_graph.EMBEDDING:
            parts[0] = parts[0].reshape(len(parts[0]), -1)
        yield from ((n, part.shape, [part]) for n, part in zip(names, parts, strict=True))
    elif layout.is_float:
        yield tensor.name, tensor.shape, _float_rows(tensor)
    else:
        raise EdgequantError(
            f"{tensor.name} is {layout.name}, which ONNX cannot hold; "
            "choose INT4_32, INT8_32 or another INT type, or F32."
        )


def _float_rows(tensor: Tensor) -> Iterator[np.ndarray]:
    """float32 values of a tensor, some rows at a time: an embedding may take a gigabyte."""
    for start in range(0, tensor.shape[0] if len(tensor.shape) == 2 else 1, ROWS_AT_ONCE):
        yield tensor.decode(start, start + ROWS_AT_ONCE).astype("<f4", copy=False)


def _rope_rows(arch: Arch, side: int) -> Iterator[np.ndarray]:
    """cos (side 0) or sin (side 1) of every position: (positions, head_dim / 2), some at a time."""
    stop = genai.context_length(arch)
    for start in range(0, stop, ROWS_AT_ONCE):
        yield arch.rope.tables(start, min(start + ROWS_AT_ONCE, stop), arch.head_dim)[side]


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
    described="an ONNX folder",
    widest="F32",
    holds=lambda layout: isinstance(layout, OnnxInt) or layout.name == "F32",
    presets=PRESETS,
    write=write,
    size=size,
    recognises=is_onnx,
    open=open_onnx,
    provenance=metadata,
    maker=maker,
    engine="onnxruntime",
    usage=USAGE,
)
