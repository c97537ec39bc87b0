"""Good artifacts of the bundled model, rounded to nearest, and their original."""

from pathlib import Path

import numpy as np
import pytest

import edgequant
from export import CONTAINERS
from quantize.checkpoint import Checkpoint, open_checkpoint
from quantize.exact.exact import Exact, exact
from quantize.exact.moved import folds
from quantize.loading import kind, open_model
from quantize.plan import Target, assign
from runtime.quant_types import QuantType
from runtime.tensor import Tensor


@pytest.fixture(scope="session")
def original() -> Checkpoint:
    return open_checkpoint(None)


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Target -> artifact."""
    to = ["gguf:Q4_K_M", "onnx:int4", "gptq:int4", "awq:int4-32"]
    folder = tmp_path_factory.mktemp("good")
    made = edgequant.quantize(None, to=to, output=folder, method="rtn", check=False)
    return {str(target): artifact.path for target, artifact in zip(to, made.artifacts, strict=True)}


@pytest.fixture(scope="session")
def scaled(original: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file after scales moved from each norm into the linears behind it."""
    draw = np.random.default_rng(0)
    tensors = {name: np.array(t.decode()) for name, t in original.tensors.items()}
    for norm, linears in folds(original.model()).items():
        scale = np.exp(draw.normal(0, 0.3, len(tensors[norm]))).astype(np.float32)
        tensors[norm] = tensors[norm] / scale
        for name in linears:
            tensors[name] = tensors[name] * scale
    path = tmp_path_factory.mktemp("scaled") / "scaled.gguf"
    target = assign(Target("gguf", "Q4_K_M"), original.arch, ())
    stored = (packed(name, values, target.types.get(name)) for name, values in tensors.items())
    CONTAINERS["gguf"].write(path, original.arch, stored, original.files, {})
    return path


def packed(name: str, values: np.ndarray, qtype: QuantType | None) -> Tensor:
    """A tensor rounded to nearest."""
    if qtype is None:
        return Tensor.dense(name, values)
    return Tensor(name, values.shape, qtype, qtype.pack(*qtype.quantize(values)))


def compared(original: Checkpoint, path: Path) -> Exact:
    return exact(original, path, kind(path), open_model(path))
