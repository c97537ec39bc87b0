"""A small written artifact and its report, made once."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from export import CONTAINERS
from quantize.checkpoint import Checkpoint, bundled, open_checkpoint
from quantize.report.judge import check_files
from quantize.report.report import Report
from runtime.quant_types import QUANT_TYPES
from runtime.tensor import Tensor
from tests.conftest import config
from tests.random_checkpoint import random_checkpoint

FLAGS = {"eval_rows": 6, "eval_length": 64}
"""Text for quick tests: one window of each domain."""


def rounded(checkpoint: Checkpoint, kind: str) -> Iterator[Tensor]:
    """The checkpoint's tensors, matrices rounded to nearest in `kind`, the rest F32."""
    for name, tensor in checkpoint.tensors.items():
        if len(tensor.shape) == 1:
            yield Tensor.dense(name, tensor.decode())
            continue
        qtype = QUANT_TYPES[kind]
        codes, params = qtype.quantize(np.array(tensor.decode()))
        yield Tensor(name, tensor.shape, qtype, qtype.pack(codes, params))


def write_onnx(path: Path, checkpoint: Checkpoint, tensors: Iterable[Tensor]) -> Path:
    """An ONNX folder."""
    CONTAINERS["onnx"].write(path, checkpoint.arch, tensors, checkpoint.folder, {})
    return path


@dataclass
class Steps:
    """A progress callback that keeps what it was told."""

    seen: list[tuple[str, int, int]] = field(default_factory=list)

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        self.seen.append((stage, done, total))


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small lose time when threads wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A random checkpoint that runs in no time."""
    folder = tmp_path_factory.mktemp("report") / "small"
    random_checkpoint(folder, config("qwen2-tied"), bundled())
    return open_checkpoint(folder)


@pytest.fixture(scope="session")
def int4(small: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small checkpoint in INT4_32."""
    path = tmp_path_factory.mktemp("report") / "small-int4"
    return write_onnx(path, small, rounded(small, "INT4_32"))


@pytest.fixture(scope="session")
def report(small: Checkpoint, int4: Path) -> Report:
    """The report on `int4`, nothing written."""
    return check_files([int4], str(small.folder), None, "native", dict(FLAGS), Steps())
