"""Importance matrices of mixtures: each expert has means and a count of its own."""

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader

from quantize.calibration.calibration_text import load_text
from quantize.calibration.imatrix import Imatrix, for_model, read, write
from quantize.calibration.make_imatrix import ImatrixRequest, make
from quantize.checkpoint import Checkpoint, open_checkpoint
from quantize.methods import HessianFactor
from quantize.methods.rtn import rtn
from runtime.errors import InputError
from runtime.quant_types import QUANT_TYPES, numpy_of, to_numpy
from tests.moe_models import QWEN2, moe
from tests.quantize.layers import embedded, layer_of
from tests.quantize.runs import small_plan, walk
from tests.quantize.test_experts_rounded import Inputs, chosen, inner, watched

pytestmark = pytest.mark.numeric

EXPERTS, ROWS, LENGTH = 6, 4, 32
NAMES = [f"blk.0.ffn_{part}_exps.weight" for part in ("gate", "up", "down")]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(moe(tmp_path_factory.mktemp("moe") / "model", QWEN2))


@pytest.fixture(scope="module")
def path(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("imatrix") / "a.gguf"
    make(ImatrixRequest(output, str(checkpoint.folder), rows=ROWS, length=LENGTH))
    return output


def test_means_are_those_of_the_tokens_that_chose_an_expert(
    checkpoint: Checkpoint, path: Path
) -> None:
    found, inputs, layer = read(path), Inputs(), layer_of(checkpoint)
    text = load_text(checkpoint, "builtin", ROWS, LENGTH, 0, lambda *told: None)
    watched(layer, embedded(checkpoint, text.ids), inputs)
    table = chosen(layer, inputs.tokens)
    for name in NAMES:
        assert found.counts[name] == tuple(table.sum(0).tolist())
        assert found.means[name].shape == (EXPERTS, 32 if "down" in name else 64)
    for expert in range(EXPERTS):
        x = inputs.tokens[table[:, expert]]
        assert len(x)
        for name, read_by in zip(NAMES, (x, x, inner(layer, expert, x)), strict=True):
            expected = read_by.square().mean(0).numpy()
            np.testing.assert_allclose(found.means[name][expert], expected, rtol=1e-4)


def test_a_run_rounds_each_expert_by_its_own_means(
    checkpoint: Checkpoint, path: Path, tmp_path: Path
) -> None:
    plan = small_plan(checkpoint.folder, "gguf:Q4_0", method="rtn", imatrix=str(path))
    done, means, q4 = walk(plan, tmp_path).tensors(), read(path).means, QUANT_TYPES["Q4_0"]
    for name in NAMES:
        weight = torch.from_numpy(checkpoint.tensors[name].decode().copy())
        packed = [
            q4.pack(numpy_of(rounded.codes), to_numpy(rounded.params))
            for rounded in (
                rtn(part, q4, HessianFactor(torch.from_numpy(mean)))
                for part, mean in zip(weight.chunk(EXPERTS), means[name], strict=True)
            )
        ]
        np.testing.assert_array_equal(done[name].data, np.concatenate(packed))


def test_the_file_has_llama_imatrix_s_shapes(path: Path) -> None:
    shapes = {tensor.name: tensor.data.shape for tensor in GGUFReader(path).tensors}
    assert shapes[f"{NAMES[2]}.in_sum2"] == (EXPERTS, 32)
    assert shapes[f"{NAMES[2]}.counts"] == (EXPERTS, 1)


def test_channels_of_an_expert_without_tokens_count_alike(tmp_path: Path) -> None:
    mean = np.array([[1, 2], [1, 1], [3, 4]], np.float32)
    given = Imatrix({"blk.0.x.weight": mean}, {"blk.0.x.weight": (4, 0, 2)}, ("a",), 1, 6)
    write(tmp_path / "a.gguf", given)
    found = read(tmp_path / "a.gguf")
    np.testing.assert_array_equal(found.means["blk.0.x.weight"], mean)
    assert found.counts["blk.0.x.weight"] == (4, 0, 2)


def test_the_older_format_has_no_shapes(checkpoint: Checkpoint, path: Path, tmp_path: Path) -> None:
    means = read(path).means
    data = struct.pack("<i", len(means))
    for name, mean in means.items():
        data += struct.pack("<i", len(name)) + name.encode()
        data += struct.pack("<ii", 1, mean.size) + mean.astype("<f4").tobytes()
    (tmp_path / "a.dat").write_bytes(data)
    found = for_model(tmp_path / "a.dat", checkpoint.arch)
    assert found
    for name in NAMES:
        np.testing.assert_array_equal(found.means[name], means[name])


@pytest.mark.parametrize(
    "cut, sizes",
    [(np.s_[:5], "64 for each of 5 experts"), (np.s_[0], "64")],
)
def test_another_number_of_experts_is_refused(
    checkpoint: Checkpoint, path: Path, tmp_path: Path, cut: Any, sizes: str
) -> None:
    given = read(path)
    means = given.means | {NAMES[0]: given.means[NAMES[0]][cut]}
    counts = np.array(given.counts[NAMES[0]])[cut]
    told = tuple(counts.tolist()) if counts.ndim else int(counts)
    write(tmp_path / "a.gguf", replace(given, means=means, counts=given.counts | {NAMES[0]: told}))
    message = f"has 64 channels for each of 6 experts and the imatrix {sizes}; .* of another model"
    with pytest.raises(InputError, match=message):
        for_model(tmp_path / "a.gguf", checkpoint.arch)
