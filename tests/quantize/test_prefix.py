"""Aiming at the original: against least squares on all tokens, and on states that did not drift."""

from pathlib import Path

import numpy as np
import pytest
import torch

from quantize.calibrate import Weights, load_layer, statistics
from quantize.checkpoint import Checkpoint, open_checkpoint
from quantize.prefix import PULL, Drift, aim, compare, held_back, share
from runtime.archs import Stage
from runtime.backends.torch import TorchOps
from tests.quantize.runs import same, small_plan, walk
from tests.quantize.test_calibrate import CPU, embedded

ROWS, LENGTH = 10, 40


def layer_of(model: Path) -> tuple[Checkpoint, Weights, np.ndarray, np.ndarray]:
    """A checkpoint, its first layer, and states before it: disturbed, and the original's."""
    checkpoint = open_checkpoint(model)
    ids = np.random.default_rng(0).integers(0, 4096, (ROWS, LENGTH))
    exact = embedded(checkpoint, ids)
    noise = np.random.default_rng(1).normal(0, exact.std() / 10, exact.shape)
    hidden = (0.9 * exact + noise).astype(np.float32)
    return checkpoint, load_layer(checkpoint, 0, CPU), hidden, exact


@pytest.mark.parametrize("name", ["qwen2-tied", "llama-untied"])
def test_hessians_are_those_without_a_comparison(name: str, random_models: dict[str, Path]) -> None:
    checkpoint, weights, hidden, exact = layer_of(random_models[name])
    arch, stages, ops = checkpoint.arch, checkpoint.family.stages, TorchOps()
    tokens = {"attn_q": np.random.default_rng(2).random((ROWS, LENGTH), np.float32)}
    expected = statistics(ops, arch, weights, stages, hidden, None, tokens)
    after = np.empty_like(exact)
    statistics(ops, arch, weights, stages, exact, after)
    found, _ = compare(ops, arch, weights, stages, hidden, exact, tokens)
    for first, hessian in expected.items():
        torch.testing.assert_close(found[first], hessian, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(exact, after, rtol=1e-4, atol=1e-5)


def test_states_that_did_not_drift_leave_the_weights_as_they_are(
    random_models: dict[str, Path],
) -> None:
    checkpoint, weights, _, exact = layer_of(random_models["qwen2-tied"])
    stages = checkpoint.family.stages
    hessians, drifts = compare(
        TorchOps(), checkpoint.arch, weights, stages, exact.copy(), exact, None
    )
    aimed = aim(weights, stages, hessians, drifts, 0.01)
    for name, weight in weights.items():
        assert torch.equal(aimed[name], weight), name


@pytest.mark.parametrize("whole", [False, True], ids=["inputs", "outputs"])
def test_weights_move_to_the_least_squares_solution_by_the_share_that_pays(whole: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    x, truth = (torch.randn(400, 12, generator=draw, dtype=torch.float64) for _ in range(2))
    x = (0.5 * truth + 0.1 * x).float()
    truth = truth.float()
    weight = torch.randn(7, 12, generator=draw)
    off = (truth - x) @ (weight.T if whole else torch.eye(12))
    learned, tried = slice(0, 300), slice(300, 400)
    hessian = x[learned].T @ x[learned] / 300
    drift = Drift(off[learned].T @ x[learned] / 300, [(x[tried], off[tried])])
    stage = Stage(("ffn_down",), before="ffn_up")
    last = Stage(("none",), before="ffn_up")  # left alone: nothing is known of its inputs
    stages = (stage,) if whole else (stage, last)
    hessians = {"ffn_down": hessian, "none": torch.full((2, 2), float("nan"))}
    found = aim({"ffn_down.weight": weight}, stages, hessians, {"ffn_down": drift}, 0)
    target = truth @ weight.T
    best = torch.linalg.lstsq(x[learned], target[learned]).solution.T
    taken = PULL * share(weight, best - weight, drift.held, whole)
    expected = weight + taken * (best - weight)
    torch.testing.assert_close(found["ffn_down.weight"], expected, rtol=1e-3, atol=1e-4)
    errors = [(x[tried] @ w.T - target[tried]).square().sum() for w in (expected, weight)]
    assert errors[0] < 0.6 * errors[1]


def test_a_change_that_does_not_pay_on_other_windows_is_left_out() -> None:
    draw = torch.Generator().manual_seed(0)
    x, off = (torch.randn(50, 6, generator=draw) for _ in range(2))
    weight = torch.randn(4, 6, generator=draw)
    change = torch.randn(4, 6, generator=draw)
    good = share(weight, change, [(x, x @ change.T)], whole=True)
    bad = share(weight, change, [(x, -(x @ change.T))], whole=True)
    half = share(weight, change, [(x, 0.5 * x @ change.T)], whole=True)
    assert (good, bad, half) == (pytest.approx(1), 0, pytest.approx(0.5))
    assert share(weight, change, [], whole=False) == 0
    assert share(weight, 0 * change, [(x, off)], whole=False) == 0


def test_some_windows_are_held_back_and_a_single_one_is_not() -> None:
    assert [len(held_back(rows)) for rows in (1, 2, 8, 24, 64, 999)] == [0, 1, 1, 3, 4, 4]
    assert held_back(64) < set(range(64))


def test_a_layer_whose_hessian_is_singular_is_left_alone(random_models: dict[str, Path]) -> None:
    checkpoint, weights, hidden, exact = layer_of(random_models["qwen2-tied"])
    stages = checkpoint.family.stages
    hessians, drifts = compare(TorchOps(), checkpoint.arch, weights, stages, hidden, exact, None)
    hessians["attn_q"].fill_(float("nan"))
    aimed = aim(weights, stages, hessians, drifts, 0.01)
    assert torch.equal(aimed["attn_q.weight"], weights["attn_q.weight"])
    assert not torch.equal(aimed["ffn_down.weight"], weights["ffn_down.weight"])


@pytest.mark.slow
def test_a_run_that_was_cut_off_goes_on_with_the_states_of_the_original(
    random_models: dict[str, Path], tmp_path: Path
) -> None:
    plan = small_plan(random_models["qwen2-tied"], "onnx:int4", effort="medium")
    whole = walk(plan, tmp_path / "whole")

    class Cut(Exception):
        pass

    def cut(stage: str, done: int, total: int, note: str) -> None:
        if stage.startswith("layers") and done == 1:
            raise Cut

    with pytest.raises(Cut):
        walk(plan, tmp_path / "cut", cut)
    again = walk(plan, tmp_path / "cut")
    assert same(again.tensors(), whole.tensors())
