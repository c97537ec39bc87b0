"""onnxruntime's own weight quantizers as rivals: the same graph, only the linears' codes differ.

Embedding and head are our 8-bit ones in every file, because onnxruntime's quantizers would store a
tied embedding twice. Each rival takes the folder with full-precision linears and replaces them by
MatMulNBits, 4 bits in blocks of 32 with zero points. Needs onnx-ir, which onnxruntime's quantizer
imports without asking for it.
"""

import contextlib
import importlib.metadata
import io
import logging
import math
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

import calib_data
import edgequant
from export.onnx_data import DATA
from export.onnx_nodes import TIED_BLOCKS
from quantize.checkpoint import Checkpoint
from runtime.backends.onnxruntime import OnnxEngine
from runtime.backends.onnxruntime import open as open_onnxruntime
from runtime.errors import UnsupportedError
from runtime.onnx_file import MODEL

BLOCK, ROWS, LENGTH = 32, 64, 512
"""Weights that share a scale; calibration windows and their tokens, for GPTQ."""
ACCURACY_LEVEL = 4
"""Activations are rounded to 8 bits, in our files and in the rivals'."""
ALGORITHMS = ("default", "k_quant", "hqq", "gptq")


def originals(checkpoint: Checkpoint, folder: Path) -> tuple[Path, Path]:
    """Our ONNX folders without 4-bit linears: all in full precision, and with the 8-bit head."""
    flags = {
        "model": str(checkpoint.folder),
        "to": ["onnx:fp32", "onnx:int4"],
        "rules": [r"^blk\.=F32"],
        "method": "rtn",
        "output": str(folder),
        "check": False,
    }
    paths = {made.target: made.path for made in edgequant.quantize(**flags).artifacts}
    return paths["onnx:fp32"], paths["onnx:int4"]


def quantize(checkpoint: Checkpoint, source: Path, output: Path, algorithm: str) -> Path:
    """Quantize the linears of `source`, a folder with full-precision ones, into another folder.

    GPTQ takes minutes even on the bundled model. Raises EdgequantError where onnx-ir is missing.
    """
    try:
        import onnxruntime.quantization.matmul_nbits_quantizer as nbits
    except ImportError as error:
        raise UnsupportedError(
            f"onnxruntime's quantizer needs {error.name}; pip install onnx-ir."
        ) from None
    for name in (nbits.__name__, "neural_compressor"):
        logging.getLogger(name).setLevel(logging.WARNING)  # a line for every weight
    model = folded(source)
    settings = {"bits": 4, "block_size": BLOCK, "accuracy_level": ACCURACY_LEVEL}
    config = None  # its default
    if algorithm == "k_quant":
        config = nbits.KQuantWeightOnlyQuantConfig()
    elif algorithm == "hqq":
        config = nbits.HQQWeightOnlyQuantConfig(block_size=BLOCK)
    elif algorithm == "gptq":
        config = nbits.GPTQWeightOnlyQuantConfig(Reader(checkpoint, model))
    quantizer = nbits.MatMulNBitsQuantizer(model, **settings, algo_config=config)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():  # a progress bar
        # hqq hands arrays to torch that it only reads
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        quantizer.process()
    shutil.copytree(source, output, ignore=shutil.ignore_patterns(MODEL, DATA))
    onnx.save_model(
        quantizer.model.model, str(output / MODEL), save_as_external_data=True, location=DATA
    )
    return output


def folded(folder: Path) -> onnx.ModelProto:
    """A model in memory with each Transpose of a weight carried out, which quantizers ask for."""
    model = onnx.load(str(folder / MODEL))
    weights = {proto.name: proto for proto in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        if node.op_type == "Transpose" and node.input[0] in weights:
            stored = weights[node.input[0]]
            turned = np.ascontiguousarray(numpy_helper.to_array(stored).T)
            model.graph.initializer.remove(stored)
            model.graph.initializer.append(numpy_helper.from_array(turned, node.output[0]))
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


class Reader:
    """Calibration rows as inputs of the model: what onnxruntime calls a CalibrationDataReader."""

    def __init__(self, checkpoint: Checkpoint, model: onnx.ModelProto) -> None:
        self.ids = calib_data.load("builtin", checkpoint.tokenizer, ROWS, LENGTH).ids
        arch = checkpoint.arch
        empty = np.zeros((1, arch.kv_heads, 0, arch.head_dim), np.float32)
        names = [value.name for value in model.graph.input]
        self.past = {name: empty for name in names if name.startswith("past")}

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for row in self.ids:
            ids = row[None].astype(np.int64)
            yield {"input_ids": ids, "attention_mask": np.ones_like(ids), **self.past}


def weight_bytes(folder: Path) -> int:
    """Bytes of everything the model stores, without padding between the arrays.

    A tied embedding counts once, though onnxruntime's quantizers write out the head's view of it.
    """
    graph = onnx.load(str(folder / MODEL), load_external_data=False).graph
    total = 0
    for proto in graph.initializer:
        if proto.name != TIED_BLOCKS:
            kind = helper.tensor_dtype_to_np_dtype(proto.data_type)
            total += math.prod(proto.dims) * kind.itemsize
    return total


def open_engine(folder: Path) -> OnnxEngine:
    """A folder in onnxruntime, with the same rounding of activations in all of them."""
    return open_onnxruntime(folder, accuracy_level=ACCURACY_LEVEL)


def version() -> str:
    """The package that quantizes, for the record."""
    return f"onnxruntime {importlib.metadata.version('onnxruntime')}"
