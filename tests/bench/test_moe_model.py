"""The small model with experts: its experts are the bundled model's channels, each once."""

import pytest
import torch

from bench import moe_model
from bench.derive import read
from quantize.checkpoint import Checkpoint
from runtime.archs import family_of


@pytest.fixture(scope="module")
def made(tiny: Checkpoint) -> dict[str, torch.Tensor]:
    return moe_model.split(tiny)


def test_every_channel_is_in_one_expert_or_in_the_shared_one(
    tiny: Checkpoint, made: dict[str, torch.Tensor]
) -> None:
    original = read(tiny)
    for layer in range(tiny.arch.layers):
        blk = f"blk.{layer}"
        parts = [made[f"{blk}.ffn_gate_shexp.weight"], *made[f"{blk}.ffn_gate_exps.weight"]]
        rows = torch.cat(parts)
        expected = original[f"{blk}.ffn_gate.weight"]
        assert {tuple(row) for row in rows.tolist()} == {tuple(row) for row in expected.tolist()}
        assert len(rows) == len(expected)


def test_its_tensors_are_those_of_its_config(
    tiny: Checkpoint, made: dict[str, torch.Tensor]
) -> None:
    config = moe_model.config_of(tiny)
    shapes = family_of(config).arch(config).shapes()
    assert {name: tuple(weight.shape) for name, weight in made.items()} == shapes


def test_channels_that_fire_together_are_put_together() -> None:
    draw = torch.Generator().manual_seed(0)
    cause = torch.rand(200, 4, generator=draw).square()
    at = torch.arange(32)
    sizes = cause[:, at % 4] + 0.01 * torch.rand(200, 32, generator=draw)
    parts = moe_model.together(sizes, at, 4)
    assert sorted(int(part[0]) for part in parts) == [0, 1, 2, 3]
    assert all((part % 4 == part[0]).all() for part in parts)


def test_the_router_prefers_the_expert_of_most_energy() -> None:
    draw = torch.Generator().manual_seed(1)
    x, wanted = torch.randn(500, 16, generator=draw), torch.randn(3, 16, generator=draw)
    router = moe_model.router_of(x, (x @ wanted.T).exp())
    assert ((x @ router.T).argmax(1) == (x @ wanted.T).argmax(1)).float().mean() > 0.95
