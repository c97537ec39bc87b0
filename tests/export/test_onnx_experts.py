"""Mixtures of experts in ONNX folders: what is stored, and what is not computed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from export import CONTAINERS
from quantize.checkpoint import Checkpoint, open_checkpoint
from runtime.engine import open_engine
from runtime.errors import EdgequantError
from runtime.onnx_file import open_onnx
from runtime.tensor import Tensor
from tests.moe_models import QWEN2, moe
from tests.small_models import kl, rounded

KINDS = ["F32", "INT4_32", "INT4_32_SYM", "INT8_32"]
GATE = "blk.1.ffn_gate_exps.weight"
WIDE = QWEN2 | {"moe_intermediate_size": 96, "num_experts": 6}
"""Three blocks a row of down, so that zero points are padded."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(moe(tmp_path_factory.mktemp("experts") / "model", WIDE))


def write(path: Path, checkpoint: Checkpoint, tensors: list[Tensor]) -> Path:
    CONTAINERS["onnx"].write(path, checkpoint.arch, tensors, checkpoint.folder, {})
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_experts_come_back_and_take_the_bytes_that_were_told(
    checkpoint: Checkpoint, tmp_path: Path, kind: str
) -> None:
    tensors = list(rounded(checkpoint, kind))
    path = write(tmp_path / "x", checkpoint, tensors)
    found = open_onnx(path).tensors
    for tensor in tensors:
        assert (found[tensor.name].shape, found[tensor.name].qtype) == (tensor.shape, tensor.qtype)
        np.testing.assert_array_equal(found[tensor.name].data, tensor.data)
    types = {tensor.name: tensor.qtype for tensor in tensors if tensor.is_matrix}
    told = CONTAINERS["onnx"].size(checkpoint.arch, types, checkpoint.folder, {})
    assert told == sum(file.stat().st_size for file in path.iterdir())


def test_types_may_differ_between_the_weights_of_a_mixture(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    four, eight = (list(rounded(checkpoint, kind)) for kind in ("INT4_32_SYM", "INT8_32"))
    mixed = [b if "gate" in b.name else a for a, b in zip(four, eight, strict=True)]
    path = write(tmp_path / "x", checkpoint, mixed)
    ids = np.random.default_rng(0).integers(0, 4096, (2, 20))
    expected = open_engine(open_onnx(path), "numpy").logits(ids)
    found = open_engine(path, "onnxruntime", threads=1, accuracy_level=0).logits(ids)
    assert kl(expected, found) < 1e-9


def test_an_expert_that_nobody_chose_is_not_computed(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    def broken(tensor: Tensor, experts: list[int]) -> Tensor:
        values = tensor.decode().reshape(tensor.shape).copy()
        values[experts] = np.nan
        return Tensor.dense(tensor.name, values)

    def logits(experts: list[int], name: str) -> np.ndarray:
        changed = [broken(t, experts) if t.name == GATE else t for t in tensors]
        engine = open_engine(write(tmp_path / name, checkpoint, changed), "onnxruntime", threads=1)
        return engine.logits(np.array([[7]]))

    tensors = list(checkpoint.model().tensors.values())
    whole = logits([], "whole")
    used = [bool(np.isnan(logits([expert], str(expert))).any()) for expert in range(6)]
    assert used.count(True) == 2  # one token's two experts
    unused = [expert for expert in range(6) if not used[expert]]
    np.testing.assert_array_equal(logits(unused, "unused"), whole)


def test_a_graph_of_experts_passes_the_checker(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = write(tmp_path / "x", checkpoint, list(rounded(checkpoint, "INT4_32")))
    onnx.checker.check_model(str(path / "model.onnx"), full_check=True)


def edited(path: Path, change: Callable[[Any], None]) -> None:
    model = onnx.load(str(path / "model.onnx"), load_external_data=False)
    change(model.graph)
    (path / "model.onnx").write_bytes(model.SerializeToString())


def test_experts_of_several_types_are_refused_by_name(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    path = write(tmp_path / "x", checkpoint, list(rounded(checkpoint, "INT4_32")))

    def change(graph: Any) -> None:
        node = next(n for n in graph.node if n.name == "blk.1.ffn_gate_exps.3")
        for attribute in node.attribute:
            if attribute.name == "bits":
                attribute.i = 8

    edited(path, change)
    with pytest.raises(EdgequantError, match=f"holds the experts of {GATE} in several types"):
        open_onnx(path)


def test_a_missing_expert_is_refused_by_name(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = write(tmp_path / "x", checkpoint, list(rounded(checkpoint, "F32")))

    def change(graph: Any) -> None:
        gone = next(i for i in graph.initializer if i.name == "blk.1.ffn_gate_exps.3.weight")
        graph.initializer.remove(gone)

    edited(path, change)
    with pytest.raises(EdgequantError, match=r"has no weight blk\.1\.ffn_gate_exps\.3\.weight"):
        open_onnx(path)
