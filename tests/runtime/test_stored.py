"""Weights stored as several arrays are one tensor, and are read when they are asked for."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from quantize.checkpoint import bundled, open_checkpoint
from runtime.archs import FAMILIES, Arch, GatedMLP, Linear, MoE, Op, Residual
from runtime.archs.llama import Llama
from runtime.checkpoint import Checkpoint
from runtime.errors import EdgequantError
from runtime.stored import Expected, MappedFile, Parts, StoredArray, StoredTensors
from runtime.tensor import Tensor
from tests.conftest import config
from tests.random_checkpoint import random_checkpoint

EXPERTS = 3


@pytest.fixture(scope="module", autouse=True)
def mixtures() -> Iterator[None]:
    """A family whose feed-forward is a mixture of experts; it is known in this module only."""

    class Mixture(Llama):
        name = "mixture"
        hf_types = ("mixture",)

        def layer(self, arch: Arch, index: int) -> tuple[Op, ...]:
            def linear(name: str, outputs: int, inputs: int) -> Linear:
                hf = f"mlp.experts.{{expert}}.{name}_proj"
                return Linear(f"ffn_{name}_exps", hf, outputs, inputs, experts=EXPERTS)

            experts = GatedMLP(
                linear("gate", arch.ffn, arch.hidden),
                linear("up", arch.ffn, arch.hidden),
                linear("down", arch.hidden, arch.ffn),
            )
            router = Linear("ffn_gate_inp", "mlp.gate", EXPERTS, arch.hidden)
            mlp = MoE(router, experts, top_k=2, normalized=True)
            return (*super().layer(arch, index)[:-2], mlp, Residual())

    yield
    del FAMILIES[Mixture.name]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint with an array for each expert."""
    sizes = config("llama-tied", hidden_size=48, intermediate_size=32, num_hidden_layers=1)
    random_checkpoint(tmp_path / "model", sizes | {"model_type": "mixture"}, bundled())
    return tmp_path / "model"


def stored(folder: Path) -> dict:
    """What the layer's file holds."""
    return load_file(folder / "model-0.safetensors")


def test_experts_in_arrays_of_their_own_are_one_tensor(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    arrays = stored(folder)
    for name in ("gate", "up", "down"):
        tensor = checkpoint.tensors[f"blk.0.ffn_{name}_exps.weight"]
        each = [
            arrays[f"model.layers.0.mlp.experts.{expert}.{name}_proj.weight"].float().numpy()
            for expert in range(EXPERTS)
        ]
        assert tensor.shape == (EXPERTS, *each[0].shape)
        assert tensor.qtype.name == "BF16"
        assert np.array_equal(tensor.decode(), np.concatenate(each))


def test_a_missing_expert_is_named(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    table = json.loads(index.read_text())["weight_map"]
    del table["model.layers.0.mlp.experts.2.up_proj.weight"]
    index.write_text(json.dumps({"weight_map": table}))
    with pytest.raises(EdgequantError, match=r"has no tensor model\S+experts.2.up_proj.weight"):
        open_checkpoint(folder)


def test_experts_of_two_types_are_refused(folder: Path) -> None:
    arrays = stored(folder)
    name = "model.layers.0.mlp.experts.1.up_proj.weight"
    save_file(arrays | {name: arrays[name].float()}, folder / "model-0.safetensors")
    message = r"experts.1.up_proj.weight is F32, but .*experts.0.up_proj.weight is BF16; save the"
    with pytest.raises(EdgequantError, match=message):
        open_checkpoint(folder)


def test_an_expert_of_another_shape_is_refused(folder: Path) -> None:
    arrays = stored(folder)
    name = "model.layers.0.mlp.experts.1.up_proj.weight"
    save_file(arrays | {name: arrays[name][:-1].clone()}, folder / "model-0.safetensors")
    with pytest.raises(EdgequantError, match=r"experts.1.up_proj.weight has shape \(31, 48\)"):
        open_checkpoint(folder)


def test_a_checkpoint_is_known_by_its_shards_and_their_bytes(folder: Path) -> None:
    checkpoint: Checkpoint = open_checkpoint(folder)
    files = sorted(folder.glob("*.safetensors"))
    assert checkpoint.shards == files
    assert checkpoint.nbytes == sum(file.stat().st_size for file in files)


def resident(path: Path) -> int:
    """Bytes of a mapped file that this process has in memory."""
    total, here = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            here = line.endswith(str(path))
        elif here and line.startswith("Rss:"):
            total += 1024 * int(line.split()[1])
    return total


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux says what is in memory")
def test_going_through_a_file_holds_one_tensor_of_it(tmp_path: Path) -> None:
    path, count, size = tmp_path / "weights", 8, 1 << 20
    path.write_bytes(bytes(count * size))
    shape, file = (64, size // 64 // 4), MappedFile(path)
    arrays = {f"{at}": StoredArray(file, "F32", shape, at * size) for at in range(count)}
    weights = {name: Parts(shape, {name: Expected(shape, ("F32",))}) for name in arrays}
    tensors = StoredTensors(weights, arrays)
    held = {name: tensors[name] for name in tensors}
    assert resident(path) < size
    for tensor in tensors.values():
        assert tensor.decode().sum() == 0
        assert resident(path) <= 2 * size  # the kernel reads a little ahead
    # whoever kept a tensor reads it again
    assert sum(tensor.decode().sum() for tensor in held.values()) == 0
    assert resident(path) >= count * size


def test_the_type_of_a_weight_is_what_its_arrays_are_joined_to(tmp_path: Path) -> None:
    data = np.arange(64, dtype=np.float32)
    (tmp_path / "data").write_bytes(data.tobytes())
    file, reads = MappedFile(tmp_path / "data"), []
    floats = StoredArray(file, "F32", (2, 32), 0)
    halves = StoredArray(file, "F16", (2, 32), 0)

    def scaled(name: str, shape: tuple[int, ...], arrays: list[StoredArray]) -> Tensor:
        reads.append(name)
        return Tensor.dense(name, np.ones(shape, np.float32), "BF16")

    two = {name: Expected((2, 32), ("F16", "F32")) for name in ("scale", "code")}
    weights = {
        "plain": Parts((2, 32), {"code": Expected((2, 32), ("F32",))}),
        "made": Parts((2, 32), two, scaled),
    }
    tensors = StoredTensors(weights, {"code": floats, "scale": halves})
    assert tensors.qtype("plain").name == "F32"
    assert [tensors.qtype("made").name for _ in range(2)] == ["BF16", "BF16"]
    assert reads == ["made"]
