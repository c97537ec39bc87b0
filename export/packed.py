"""Folders of packed linears in safetensors, as transformers, vLLM and SGLang load them.

    model*.safetensors   shards.py; each packed linear as several arrays, the rest as floats
    config.json          the checkpoint's, with `quantization_config`
    tokenizer.json...    the checkpoint's own files, unchanged

What GPTQ and AWQ share. Weights keep the checkpoint's names; norms and biases are float32, which
readers turn into the type that they compute in.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from export import genai
from export.base import check_complete, check_tensor, text_of
from export.files import new_folder
from export.joined import join, joined_shapes, of_checkpoint
from export.packed_tower import LOADED, preparation, tower_arrays, tower_values
from export.shard_hashes import HASHES, noted
from export.shards import Array, Places, ShardWriter, room_for
from export.sight import Sight
from runtime.archs import Arch
from runtime.config_file import read_config
from runtime.errors import InputError, UnsupportedError
from runtime.json_files import read_json
from runtime.quant_types import QUANT_TYPES, QuantType
from runtime.quant_types.onnx_int import OnnxInt
from runtime.sources import CONFIG
from runtime.tensor import Shape, Tensor, is_matrix
from runtime.tokenizer import Tokenizer
from runtime.vision.ids import IDS

USAGE = """```sh
vllm serve {file}
quantize generate {file} "Once upon a time"
```"""

FLOATS = ("F16", "BF16", "F32")

PREFIX = "edgequant."
"""Of what a file says of its making."""

Types = Mapping[str, QuantType]


class Modules(NamedTuple):
    """What the parts of a model are called once it is loaded."""

    linears: Mapping[str, str]
    """Name of a linear here -> that of its module, or the end of it where others stand `beside`."""
    beside: tuple[str, ...] = ()
    """Names of those of other parts of the model, which stay floats."""


@dataclass(frozen=True)
class Packing:
    """A format of packed linears."""

    stored: tuple[str, ...]
    """Last words of the names of a linear's arrays."""
    arrays: Callable[[str, Shape, OnnxInt], list[Array]]
    """Name of a linear without ".weight", its shape, its type -> what is stored of it."""
    values: Callable[[OnnxInt, np.ndarray, np.ndarray | None], list[np.ndarray]]
    """Type, records (rows, row bytes) and `Tensor.order` -> the values of those arrays."""
    config: Callable[[Types, Modules, str], dict[str, Any]]
    """Types of the linears of decoder layers, their modules, and the version that wrote them ->
    quantization_config. Raises UnsupportedError for a mixture that it cannot say."""
    files: Callable[[dict[str, Any]], dict[str, bytes]] = lambda config: {}
    """quantization_config -> further files."""

    def write(
        self,
        path: Path,
        arch: Arch,
        tensors: Iterable[Tensor],
        source: Path,
        extra: dict[str, Any],
        *,
        overwrite: bool = False,
        largest: int | None = None,
        sight: Sight | None = None,
    ) -> None:
        """Write the folder `path` from tensors in any order.

        `source` is the checkpoint's folder, `extra` goes into the first file's metadata, `largest`
        is the size of a file, `sight` a vision tower that goes along. Raises EdgequantError when
        the folder exists, the disk is too small, a tensor is missing or of a type that the format
        cannot hold, or the written files do not read back as they were meant.
        """
        shapes, names = arch.shapes(), arch.hf_names()
        places = self._places(arch, extra, sight, largest)
        types: dict[str, QuantType] = {}
        with new_folder(path, overwrite, needed=0) as temp:
            writer = ShardWriter(temp, places)
            for tensor in join(of_checkpoint(arch), _checked(tensors, shapes, types)):
                for array, data in self._stored(tensor, names[tensor.name], arch):
                    writer.add(array, data)
            check_complete(shapes, types)
            if sight:
                for array, data in zip(tower_arrays(sight), tower_values(sight), strict=True):
                    writer.add(array, data)
            writer.finish(self._small_files(arch, types, source, extra, sight))

    def size(
        self,
        arch: Arch,
        types: Types,
        source: Path,
        extra: dict[str, Any],
        *,
        sight: Sight | None = None,
    ) -> int:
        """Bytes of the folder that `write` makes when its 2-D weights have these types."""
        places, names = self._places(arch, extra, sight), arch.hf_names()
        for name, shape in _stored_shapes(arch).items():
            qtype = types.get(name, QUANT_TYPES["F32"])
            for part, matrix in parts_of(names[name], shape):
                for array in self._arrays(part, matrix, qtype):
                    places.add(array)
        for array in tower_arrays(sight) if sight else ():
            places.add(array)
        small = self._small_files(arch, types, source, extra, sight)
        return places.size + sum(map(len, small.values()))

    def _places(
        self,
        arch: Arch,
        extra: dict[str, Any],
        sight: Sight | None,
        largest: int | None = None,
    ) -> Places:
        """Room for every array that a model may have."""
        told = {PREFIX + key: text_of(extra[key]) for key in sorted(extra)}
        names = [array.name for array in tower_arrays(sight)] if sight else []
        for name, shape in _stored_shapes(arch).items():
            for part, matrix in parts_of(arch.hf_names()[name], shape):
                packed = is_matrix(matrix) and name.startswith("blk.")
                stem = part.removesuffix(".weight")
                names += [f"{stem}.{array}" for array in self.stored] * packed
                names.append(part)
        places = Places(told, room_for(names, told))
        if largest:
            places.largest = largest
        return places

    def _arrays(self, name: str, shape: Shape, qtype: QuantType) -> list[Array]:
        """What is stored of a weight, or of one expert's."""
        if isinstance(qtype, OnnxInt) and qtype.half:
            return self.arrays(name.removesuffix(".weight"), shape, qtype)
        if qtype.name not in FLOATS:
            raise UnsupportedError(
                f"{name} is {qtype.name}, which this format cannot hold; choose INT4_128_SYM_F16, "
                "another of these types, or F16."
            )
        return [Array(name, qtype.name, shape)]

    def _stored(self, tensor: Tensor, hf: str, arch: Arch) -> Iterator[tuple[Array, np.ndarray]]:
        """What is stored of a tensor, and its values."""
        parts = parts_of(hf, tensor.shape)
        rows = tensor.rows // len(parts)
        for at, (name, shape) in enumerate(parts):
            data, qtype = tensor.data[at * rows : (at + 1) * rows], tensor.qtype
            values = [data]
            if isinstance(qtype, OnnxInt):
                values = self.values(qtype, data, tensor.order)
            if (norm := arch.norms().get(tensor.name)) and norm.offset:
                values = [tensor.decode() - np.float32(norm.offset)]
            yield from zip(self._arrays(name, shape, qtype), values, strict=True)

    def _small_files(
        self,
        arch: Arch,
        types: Types,
        source: Path,
        extra: dict[str, Any],
        sight: Sight | None,
    ) -> dict[str, bytes]:
        """Every file beside the weights: name -> bytes."""
        stored = read_json(source / CONFIG)
        if stored.get("vision_config") and not sight:
            raise UnsupportedError(
                f"{source} has a vision_config, but no tower that goes into this format "
                f"({', '.join(IDS)} and the tower of a Qwen2-VL or Qwen2.5-VL are needed); choose "
                "--to gguf:Q4_K_M, or take vision_config out of config.json."
            )
        if tables := [n for n, q in types.items() if not n.startswith("blk.") and not q.is_float]:
            raise UnsupportedError(
                f"{tables[0]} cannot be {types[tables[0]].name}: readers of this format take the "
                "embedding and the head in floats; leave the rule out for them."
            )
        names = {n: hf.removesuffix(".weight") for n, hf in arch.hf_names().items()}
        shapes = _stored_shapes(arch)
        linears = {n: t for n, t in types.items() if n.startswith("blk.") and n in shapes}
        matrices = {n: t for n, t in linears.items() if is_matrix(shapes[n])}
        modules = Modules(names)
        if sight:
            short = {name: module.removeprefix("model.") for name, module in names.items()}
            modules = Modules(short, LOADED)
        config = self.config(matrices, modules, extra.get("version", "0"))
        files = genai.copied_files(source, arch, Tokenizer.from_folder(source))
        told = {"quantization_config": config, "torch_dtype": "float16", "dtype": "float16"}
        files[CONFIG] = genai.json_bytes(json.loads(files[CONFIG]) | told)
        return files | self.files(config) | (preparation(source) if sight else {})


def parts_of(hf: str, shape: Shape) -> list[tuple[str, Shape]]:
    """Name and shape of a weight in a checkpoint, or of each expert's."""
    if "{expert}" not in hf:
        return [(hf, shape)]
    return [(hf.replace("{expert}", str(expert)), shape[1:]) for expert in range(shape[0])]


def _stored_shapes(arch: Arch) -> dict[str, Shape]:
    """Every weight of a folder, by the name of the first of those that it holds."""
    return joined_shapes(arch.shapes(), of_checkpoint(arch))


def _checked(
    tensors: Iterable[Tensor], shapes: Mapping[str, Shape], types: dict[str, QuantType]
) -> Iterator[Tensor]:
    """Tensors that have a place among `shapes`; their types are noted. Raises as `check_tensor`."""
    for tensor in tensors:
        check_tensor(tensor, shapes, types)
        types[tensor.name] = tensor.qtype
        yield tensor


def model_notes(arch: Arch) -> tuple[str, ...]:
    """What is told of a model's readers, a sentence each."""
    if not any(arch.layer(index).mixture for index in range(arch.layers)):
        return ()
    return (
        "transformers 5 does not read packed experts: it leaves them at random, reports them as "
        "MISSING, or fails; GPTQModel's own loader reads them",
    )


def provenance(folder: Path) -> dict[str, Any]:
    """What the writer noted in the first file: name -> text."""
    return {
        key.removeprefix(PREFIX): value
        for key, value in noted(folder).items()
        if key.startswith(PREFIX) and not key.startswith(HASHES)
    }


def maker(folder: Path) -> str | None:
    """The tool that quantized a folder, where it says so."""
    if provenance(folder):
        return "edgequant"
    meta = (read_config(folder).get("quantization_config") or {}).get("meta") or {}
    names = meta.get("quantizer") or ()
    return str([names] if isinstance(names, str) else names[0]).partition(":")[0] if names else None


def one_of(types: Types, what: Callable[[OnnxInt], Any], flag: str) -> Any:
    """What all packed linears must have alike. Raises UnsupportedError where they differ."""
    found = {what(qtype) for qtype in types.values() if isinstance(qtype, OnnxInt)}
    if not found:
        raise nothing_packed()
    if len(found) > 1:
        raise UnsupportedError(
            f"linears have {flag} of {' and '.join(map(str, sorted(found)))}, and this format says "
            "it once for all of them; give them one."
        )
    return found.pop()


def nothing_packed() -> InputError:
    """The error of a mixture of floats alone."""
    return InputError(
        "no linear is packed, and the format is one of packed linears; leave out the rule, or "
        "choose --to gguf:F16."
    )
