"""Derived checkpoints: the same function with outliers, and a narrower model that learns it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bench import derive
from quantize.checkpoint import Checkpoint, open_checkpoint
from runtime.engine import open_engine
from runtime.forward import forward, layers

IDS = np.arange(64, dtype=np.int32)[None] * 50 % 4000


def logits(checkpoint: Checkpoint) -> np.ndarray:
    return open_engine(checkpoint.model(), "torch").logits(IDS)


def test_outliers_leave_the_logits_as_they_were(tiny: Checkpoint, tmp_path: Path) -> None:
    derive.outliers(tiny, tmp_path / "made")
    made = open_checkpoint(tmp_path / "made")
    assert np.array_equal(logits(made), logits(tiny))


def test_four_channels_of_every_norm_become_outliers(tiny: Checkpoint, tmp_path: Path) -> None:
    derive.outliers(tiny, tmp_path / "made")
    made = open_checkpoint(tmp_path / "made")
    for layer in range(tiny.arch.layers):
        for name in (f"blk.{layer}.attn_norm.weight", f"blk.{layer}.ffn_norm.weight"):
            ratio = made.tensors[name].decode() / tiny.tensors[name].decode()
            assert sorted(ratio)[-5:] == [1, 32, 32, 32, 32]


def test_another_seed_takes_other_channels(tiny: Checkpoint, tmp_path: Path) -> None:
    name = "blk.0.attn_norm.weight"
    norms = []
    for seed in (0, 1):
        derive.outliers(tiny, tmp_path / str(seed), seed)
        norms.append(open_checkpoint(tmp_path / str(seed)).tensors[name].decode())
    assert not np.array_equal(*norms)


def test_a_cut_that_keeps_everything_changes_nothing(tiny: Checkpoint) -> None:
    weights = derive.read(tiny)
    whole = derive.cut_residual(weights, np.arange(tiny.arch.hidden))
    derive.cut_heads(whole, tiny.arch, tiny.arch.head_dim)
    assert all(torch.equal(whole[name], weight) for name, weight in weights.items())


def test_channels_that_carry_nothing_are_the_ones_cut(tiny: Checkpoint) -> None:
    weights, silent = derive.read(tiny), np.array([3, 77, 200])
    weights["token_embd.weight"][:, silent] = 0
    for layer in range(tiny.arch.layers):
        for part in ("attn_output", "ffn_down"):
            weights[f"blk.{layer}.{part}.weight"][silent] = 0
    kept = derive.strongest(tiny.arch, weights, IDS, tiny.arch.hidden - 3)
    assert not set(kept) & set(silent)
    narrow = derive.cut_residual(weights, kept)
    found = [
        forward(derive.TorchOps(), tiny.arch, w, layers(tiny.arch, w), IDS)
        for w in (weights, narrow)
    ]
    # only the small eps of the norms weighs more when the mean square is larger
    torch.testing.assert_close(found[1], found[0], atol=2e-3, rtol=0)


@pytest.mark.slow
def test_a_narrow_model_is_a_checkpoint_like_any_other(tiny: Checkpoint, tmp_path: Path) -> None:
    derive.narrow(tiny, tmp_path / "made", steps=1, length=64, sampled=8)
    made = open_checkpoint(tmp_path / "made")
    assert (made.arch.hidden, made.arch.head_dim, made.arch.tied) == (224, 56, True)
    assert np.isfinite(logits(made)).all()


@pytest.mark.slow
def test_healing_brings_a_cut_model_back_to_the_original(tiny: Checkpoint) -> None:
    teacher = derive.read(tiny)
    arch = tiny.family.arch(tiny.config | {"hidden_size": 224, "head_dim": 64})
    student = derive.cut_residual(teacher, np.arange(224))
    rows = IDS.repeat(derive.BATCH, 0)
    before, after = (
        derive.heal(tiny.arch, teacher, arch, student, rows, steps, 0) for steps in (1, 40)
    )
    assert after < 0.5 * before
