"""llama.cpp as a rival: its own quantizer with an importance matrix from our calibration rows.

    python bench/rival.py OUTPUT [--model FOLDER] [--presets Q4_K_M Q3_K_M Q2_K Q4_0]

Writes OUTPUT/F32.gguf and a file for each preset. What an importance matrix holds is what
llama-imatrix collects, the mean squared input of each channel, over the rows that our own runs
calibrate with, so that nothing differs but the quantizer. Files come from `llama_model_quantize`
where llama-cpp-python is installed (which pip compiles, for minutes), else from xllamacpp (extra
`interop`): that one leaves this function out but has ggml's quantizers, which are given the types
that llama.cpp would choose. The tensors of both are equal, byte for byte.
"""

import argparse
import ctypes
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import calib_data
from export.gguf import write
from export.gguf_general import FILE_TYPES
from quantize.calibration.experts import ExpertHessians
from quantize.calibration.hessian import Hessians
from quantize.calibration.routed import Routed
from quantize.calibration.stream import Carried, OriginalLayers, forward
from quantize.checkpoint import Checkpoint, open_checkpoint
from quantize.plan import Target, assign
from runtime.backends.torch import TorchOps
from runtime.errors import UnsupportedError
from runtime.forward import Layer
from runtime.gguf_file import open_gguf
from runtime.quant_types import QuantType
from runtime.tensor import Tensor

PRESETS = ("Q4_K_M", "Q3_K_M", "Q2_K", "Q4_0")
ROWS, LENGTH = 64, 512
"""Calibration windows and their tokens: the defaults of `quantize run`."""

Importance = Mapping[str, np.ndarray]
"""Name of a linear -> mean squared input of each channel, float32 (in,), or (experts, in)."""

Floats = ctypes.POINTER(ctypes.c_float)


@torch.inference_mode()
def importance(checkpoint: Checkpoint, rows: int = ROWS, length: int = LENGTH) -> Importance:
    """What llama-imatrix would collect of every linear, in the full-precision model."""
    ids = calib_data.load("builtin", checkpoint.tokenizer, rows, length).ids
    embedding = checkpoint.tensors["token_embd.weight"]
    hidden = np.stack([embedding.qtype.decode(embedding.data[row]) for row in ids])  # (rows, T, D)
    parts: dict[str, list[np.ndarray]] = {}
    ops = TorchOps()
    source, states = OriginalLayers(checkpoint, ops.device), Carried(hidden)

    def observe(layer: Layer) -> Hessians:
        mixture, routed = layer.spec.mixture, None
        if mixture:
            inputs = np.zeros((ids.size, mixture.router.inputs), np.float32)
            routed = Routed(inputs, mixture.router.outputs)
        return Hessians(layer.spec, ops.device, routed=routed)

    for layer, sums in forward(ops, source, states, observe):
        hessians = sums.mean()
        if sums.router:
            hessians |= ExpertHessians(ops, layer, sums.router, {}, share="none")
        for group in layer.spec.groups:
            squares = hessians[group.name].diagonal().numpy().copy()  # (in,)
            for name in (f"blk.{layer.index}.{linear}.weight" for linear in group.linears):
                parts.setdefault(name, []).append(squares)
    return {name: np.stack(of) if len(of) > 1 else of[0] for name, of in parts.items()}


def full_precision(checkpoint: Checkpoint, path: Path) -> Path:
    """The checkpoint as an F32 file, with no metadata about us that a rival would have to carry."""
    pairs = checkpoint.tensors.items()
    dense = (Tensor.dense(name, tensor.decode().reshape(tensor.shape)) for name, tensor in pairs)
    write(path, checkpoint.arch, dense, checkpoint.folder, {}, overwrite=True)
    return path


def has_quantizer() -> bool:
    """Whether llama.cpp's own function can be called; else xllamacpp must do."""
    return importlib.util.find_spec("llama_cpp") is not None


def version() -> str:
    """The package that makes the files, for the record."""
    name = "llama-cpp-python" if has_quantizer() else "xllamacpp"
    return f"{name} {importlib.metadata.version(name)}"


def quantize(
    checkpoint: Checkpoint, base: Path, output: Path, preset: str, matrix: Importance
) -> Path:
    """Make llama.cpp's file of a preset from the F32 file `base`."""
    if has_quantizer():
        by_llamacpp(base, output, preset, matrix)
    else:
        by_blocks(checkpoint, base, output, preset, matrix)
    return output


def by_llamacpp(base: Path, output: Path, preset: str, matrix: Importance) -> None:
    """With `llama_model_quantize`. Raises EdgequantError when llama.cpp refuses."""
    llama_cpp = importlib.import_module("llama_cpp")
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = FILE_TYPES[preset], 1
    rows = (llama_cpp.llama_model_imatrix_data * (len(matrix) + 1))()  # ends with an empty name
    names = [name.encode() for name in matrix]  # the structures only point at what is kept here
    for row, name, values in zip(rows, names, matrix.values(), strict=False):
        row.name, row.size = name, values.size
        row.data = values.ctypes.data_as(Floats)
    params.imatrix = rows
    files = str(base).encode(), str(output).encode()
    if code := llama_cpp.llama_model_quantize(*files, ctypes.byref(params)):
        raise UnsupportedError(
            f"llama.cpp refused to make {preset} of {base} with code {code}; choose another preset."
        )


def by_blocks(
    checkpoint: Checkpoint, base: Path, output: Path, preset: str, matrix: Importance
) -> None:
    """With ggml's quantizer of each block type, in the mixture that llama.cpp would choose."""
    types = assign(Target("gguf", preset), checkpoint.arch, ()).types

    def tensors() -> Iterator[Tensor]:
        for tensor in open_gguf(base).tensors.values():
            qtype = types.get(tensor.name, tensor.qtype)
            rows = tensor.data
            if qtype is not tensor.qtype:
                rows = chunks(qtype, tensor, matrix.get(tensor.name))
            yield Tensor(tensor.name, tensor.shape, qtype, rows)

    write(output, checkpoint.arch, tensors(), checkpoint.folder, {}, overwrite=True)


def chunks(qtype: QuantType, tensor: Tensor, matrix: np.ndarray | None) -> np.ndarray:
    """ggml's packed rows of a weight, each expert's by its own row of `matrix`."""
    if len(tensor.shape) == 2:
        return chunk(qtype, tensor.decode(), matrix)
    experts = tensor.decode().reshape(tensor.shape)
    known = [None] * len(experts) if matrix is None else list(matrix)
    return np.concatenate([chunk(qtype, *pair) for pair in zip(experts, known, strict=True)])


def chunk(qtype: QuantType, weight: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """ggml's packed rows of a weight (out, in), errors weighted by `matrix` (in,) or not at all."""
    out = np.empty((len(weight), qtype.row_bytes(weight.shape[1])), np.uint8)
    weight = np.ascontiguousarray(weight, np.float32)
    pointer = None if matrix is None else matrix.ctypes.data_as(Floats)
    source = weight.ctypes.data_as(Floats)
    ggml().ggml_quantize_chunk(qtype.ggml_type, source, out.ctypes.data, 0, *weight.shape, pointer)
    return out


@cache
def ggml() -> Any:
    """The library inside xllamacpp. Raises EdgequantError where it is not installed."""
    try:
        from xllamacpp import xllamacpp
    except ImportError:
        raise UnsupportedError(
            "making llama.cpp's files needs xllamacpp or llama-cpp-python; "
            "pip install 'edgequant[interop]'."
        ) from None
    library = ctypes.CDLL(xllamacpp.__file__)
    sizes = [ctypes.c_int64] * 3  # first value, rows, columns
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, Floats, ctypes.c_void_p, *sizes, Floats]
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    return library


def make(checkpoint: Checkpoint, presets: tuple[str, ...], folder: Path) -> dict[str, Path]:
    """F32 and the rival's file of each preset: name -> file."""
    folder.mkdir(parents=True, exist_ok=True)
    base = full_precision(checkpoint, folder / "F32.gguf")
    matrix = importance(checkpoint)
    made = {p: quantize(checkpoint, base, folder / f"{p}.gguf", p, matrix) for p in presets}
    return {"F32": base} | made


def main() -> None:
    """Make the files and say how large they are."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", type=Path, help="checkpoint folder; the bundled one by default")
    parser.add_argument("--presets", nargs="+", default=list(PRESETS))
    flags = parser.parse_args()
    made = make(open_checkpoint(flags.model), tuple(flags.presets), flags.output)
    for path in made.values():
        print(f"{path}: {path.stat().st_size:,} bytes, {version()}")


if __name__ == "__main__":
    main()
