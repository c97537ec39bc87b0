"""The size that a container announces is what its writer then leaves on disk, to the byte."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export import CONTAINERS, Container
from export.onnx_data import weight_arrays
from quantize.checkpoint import Checkpoint, open_checkpoint
from quantize.plan import Target, assign
from runtime.errors import EdgequantError
from runtime.quant_types import QUANT_TYPES, QuantType
from runtime.tensor import Tensor, file_bytes
from tests.conftest import CONFIGS

EXTRA = {"method": "gptq", "plan": {"rows": 4, "rules": ["ä=Q8_0"]}, "fallbacks": []}
"""Provenance; its length counts as well."""

Types = dict[str, QuantType]

every_preset = pytest.mark.parametrize(
    ("container", "preset"),
    [(container, preset) for container in CONTAINERS.values() for preset in container.presets],
    ids=lambda part: part if isinstance(part, str) else part.name,
)
every_container = pytest.mark.parametrize("container", CONTAINERS.values(), ids=lambda c: c.name)


def zeros(checkpoint: Checkpoint, types: Mapping[str, QuantType]) -> Iterator[Tensor]:
    """Every tensor in file order, all bytes zero: a size does not depend on values."""
    for name, shape in checkpoint.tensors.shapes.items():
        if name in types:
            data = np.ones((shape[0], types[name].row_bytes(shape[1])), np.uint8)
            yield Tensor(name, shape, types[name], data)
        else:
            yield Tensor.dense(name, np.zeros(shape, np.float32))


def written(container: Container, checkpoint: Checkpoint, types: Types, folder: Path) -> int:
    """Bytes on disk of the artifact with these types."""
    path = folder / f"made{container.suffix}"
    tensors = zeros(checkpoint, types)
    container.write(path, checkpoint.arch, tensors, checkpoint.folder, EXTRA, overwrite=True)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def announced(container: Container, checkpoint: Checkpoint, types: Types) -> int:
    """Bytes by `size`."""
    return container.size(checkpoint.arch, types, checkpoint.folder, EXTRA)


def mixed(container: Container, checkpoint: Checkpoint, seed: int) -> Types:
    """Any type that the container holds and that fits, for each 2-D weight by itself.

    One for all linears of the layers where the container wants that, and a float type where it
    has no other for the embedding and the head.
    """
    draw = np.random.default_rng(seed)
    types: Types = {}
    if container.uniform or container.table_type:
        presets = list(container.presets)
        preset = presets[draw.integers(len(presets))]
        return assign(Target(container.name, preset), checkpoint.arch, ()).types
    for name, shape in checkpoint.tensors.shapes.items():
        if len(shape) == 2:
            held = [b for b in QUANT_TYPES.values() if container.holds(b) and b.fits(shape[1])]
            # act-order is for the linears of layers alone
            fitting = [b for b in held if name.startswith("blk.") or not b.ordered]
            types[name] = fitting[draw.integers(len(fitting))]
    for first, *others in container.joined(checkpoint.arch):
        types |= dict.fromkeys(others, types[first])
    return types


@pytest.mark.parametrize("blocks", [1, 2, 3, 5])
@pytest.mark.parametrize("container", ["onnx", "onnx-f16"])
def test_bytes_that_types_are_chosen_by_are_those_of_the_arrays(container, blocks) -> None:
    """Zero points of 2 and 4 bits share bytes, and the last byte of a row may be part empty."""
    for qtype in filter(CONTAINERS[container].holds, QUANT_TYPES.values()):
        shape = (7, blocks * qtype.size)
        arrays = weight_arrays("blk.0.attn_q.weight", shape, qtype)
        assert file_bytes(qtype, shape) == sum(array.nbytes for array in arrays)


@every_preset
def test_a_preset_takes_the_bytes_announced(
    container: Container, preset: str, tiny: Checkpoint, tmp_path: Path
) -> None:
    types = assign(Target(container.name, preset), tiny.arch, ()).types
    assert announced(container, tiny, types) == written(container, tiny, types, tmp_path)


@pytest.mark.parametrize("model", CONFIGS)
@every_container
def test_mixed_types_take_the_bytes_announced(
    container: Container, model: str, random_models: dict[str, Path], tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(random_models[model])
    for seed in range(4):
        types = mixed(container, checkpoint, seed)
        expected = written(container, checkpoint, types, tmp_path)
        assert announced(container, checkpoint, types) == expected, types


@every_container
def test_a_longer_recipe_takes_more_bytes(container: Container, tiny: Checkpoint) -> None:
    types = mixed(container, tiny, seed=0)
    longer = EXTRA | {"fallbacks": ["a sentence about tensors"]}
    larger = container.size(tiny.arch, types, tiny.folder, longer)
    assert larger >= announced(container, tiny, types)
    assert larger - announced(container, tiny, types) <= 64


@every_container
def test_nothing_is_left_beside_the_checkpoint(
    container: Container, random_models: dict[str, Path]
) -> None:
    folder = random_models["qwen2-tied"]
    before = sorted(folder.rglob("*"))
    checkpoint = open_checkpoint(folder)
    announced(container, checkpoint, mixed(container, checkpoint, seed=1))
    assert sorted(folder.rglob("*")) == before


def test_heads_that_onnx_cannot_rotate_have_no_size(random_models: dict[str, Path]) -> None:
    checkpoint = open_checkpoint(random_models["qwen2-tied"])
    arch = replace(checkpoint.arch, head_dim=24)
    types = mixed(CONTAINERS["onnx"], checkpoint, seed=0)
    with pytest.raises(EdgequantError, match="the heads have 24 channels.*write a GGUF file"):
        CONTAINERS["onnx"].size(arch, types, checkpoint.folder, EXTRA)
