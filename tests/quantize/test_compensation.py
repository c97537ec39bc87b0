"""Error compensation: against least squares on all tokens, and on states without an error."""

from pathlib import Path

import numpy as np
import pytest
import torch

import edgequant
from quantize.calibration.compensation import (
    STEP,
    Compared,
    ComparedPrefix,
    InputDifference,
    compensate,
    held_back,
    step_fraction,
)
from quantize.checkpoint import bundled, open_checkpoint
from runtime.archs import InputGroup
from runtime.backends.torch import TorchOps
from runtime.forward import Layer
from tests.quantize.layers import CPU, embedded, hessians_of, layer_of
from tests.quantize.runs import same, small_plan, walk
from tests.random_checkpoint import random_checkpoint
from tests.variations import FACTS, registered

pytestmark = pytest.mark.numeric

ROWS, LENGTH = 10, 40


def case(model: Path) -> tuple[Layer, ComparedPrefix]:
    """The first layer of a checkpoint, and states before it: disturbed, and the original's."""
    checkpoint = open_checkpoint(model)
    ids = np.random.default_rng(0).integers(0, 4096, (ROWS, LENGTH))
    exact = embedded(checkpoint, ids)
    noise = np.random.default_rng(1).normal(0, exact.std() / 10, exact.shape)
    hidden = (0.9 * exact + noise).astype(np.float32)
    return layer_of(checkpoint), ComparedPrefix(hidden, exact)


def compared(
    layer: Layer, states: ComparedPrefix, tokens: dict[str, np.ndarray] | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, InputDifference]]:
    """Hessians and errors of the layer's input groups; the original's states go on."""
    observer = Compared(layer.spec, CPU, tokens)
    states.advance(TorchOps(), layer, observer)
    return observer.mean(), observer.errors


@pytest.mark.parametrize("name", ["qwen2-tied", "llama-untied"])
def test_hessians_are_those_without_a_comparison(name: str, random_models: dict[str, Path]) -> None:
    layer, states = case(random_models[name])
    tokens = {"attn_qkv": np.random.default_rng(2).random((ROWS, LENGTH), np.float32)}
    expected = hessians_of(layer, states.values, None, tokens)
    after = np.empty_like(states.exact)
    hessians_of(layer, states.exact, after)
    found, _ = compared(layer, states, tokens)
    for group, hessian in expected.items():
        torch.testing.assert_close(found[group], hessian, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(states.exact, after, rtol=1e-4, atol=1e-5)


def test_states_without_an_error_leave_the_weights_as_they_are(
    random_models: dict[str, Path],
) -> None:
    layer, states = case(random_models["qwen2-tied"])
    hessians, errors = compared(layer, ComparedPrefix(states.exact.copy(), states.exact))
    found = dict(layer.weights)
    compensate(found, layer.spec.groups, hessians, errors, 0.01)
    for name, weight in layer.weights.items():
        assert torch.equal(found[name], weight), name


@pytest.mark.parametrize("whole", [False, True], ids=["inputs", "outputs"])
def test_weights_move_to_the_least_squares_solution_by_the_fraction_that_pays(whole: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    x, truth = (torch.randn(400, 12, generator=draw, dtype=torch.float64) for _ in range(2))
    x = (0.5 * truth + 0.1 * x).float()
    truth = truth.float()
    weight = torch.randn(7, 12, generator=draw)
    off = (truth - x) @ (weight.T if whole else torch.eye(12))
    learned, tried = slice(0, 300), slice(300, 400)
    hessian = x[learned].T @ x[learned] / 300
    error = InputDifference(
        off[learned].T @ x[learned] / 300, [(x[tried], off[tried])], of_outputs=whole
    )
    group = InputGroup("down", ("ffn_down",), 12, None)
    found, kept = {"ffn_down.weight": weight}, {"down": error}
    compensate(found, (group,), {"down": hessian}, kept, 0)
    assert not kept
    assert not hasattr(error, "moment")  # as large as the Hessian, and of no more use
    target = truth @ weight.T
    best = torch.linalg.lstsq(x[learned], target[learned]).solution.T
    taken = STEP * step_fraction(weight, best - weight, error)
    expected = weight + taken * (best - weight)
    torch.testing.assert_close(found["ffn_down.weight"], expected, rtol=1e-3, atol=1e-4)
    errors = [(x[tried] @ w.T - target[tried]).square().sum() for w in (expected, weight)]
    assert errors[0] < 0.6 * errors[1]


def test_a_change_that_does_not_pay_on_other_windows_is_left_out() -> None:
    draw = torch.Generator().manual_seed(0)
    x, off = (torch.randn(50, 6, generator=draw) for _ in range(2))
    weight = torch.randn(4, 6, generator=draw)
    change = torch.randn(4, 6, generator=draw)
    nothing = torch.zeros(4, 6)

    def fraction(change: torch.Tensor, *held: tuple[torch.Tensor, torch.Tensor]) -> float:
        return step_fraction(weight, change, InputDifference(nothing, list(held), of_outputs=True))

    good = fraction(change, (x, x @ change.T))
    bad = fraction(change, (x, -(x @ change.T)))
    half = fraction(change, (x, 0.5 * x @ change.T))
    assert (good, bad, half) == (pytest.approx(1), 0, pytest.approx(0.5))
    assert fraction(change) == 0
    assert step_fraction(weight, 0 * change, InputDifference(nothing, [(x, off)])) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["multiplier", "post norms", "all of it"])
def test_compensation_does_not_harm_whatever_follows_the_last_linear(
    name: str, tmp_path: Path
) -> None:
    with registered():
        random_checkpoint(tmp_path / "model", FACTS | {"variation": name}, bundled())
        settings = {"rows": 16, "length": 128, "eval_rows": 4, "eval_length": 128}
        found = [
            edgequant.quantize(
                tmp_path / "model",
                to="onnx:int4",
                output=tmp_path / effort,
                effort=effort,
                **settings,  # type: ignore[arg-type]
            ).report
            for effort in ("low", "medium")
        ]
    low, medium = (report.results[0].metrics.kl for report in found if report)
    assert medium < 1.5 * low


def test_some_windows_are_held_back_and_a_single_one_is_not() -> None:
    assert [len(held_back(rows)) for rows in (1, 2, 8, 24, 64, 999)] == [0, 1, 1, 3, 4, 4]
    assert held_back(64) < set(range(64))


def test_a_group_whose_hessian_is_singular_is_left_alone(random_models: dict[str, Path]) -> None:
    layer, states = case(random_models["qwen2-tied"])
    hessians, errors = compared(layer, states)
    hessians["attn_qkv"].fill_(float("nan"))
    found = dict(layer.weights)
    compensate(found, layer.spec.groups, hessians, errors, 0.01)
    assert torch.equal(found["attn_q.weight"], layer.weights["attn_q.weight"])
    assert not torch.equal(found["ffn_down.weight"], layer.weights["ffn_down.weight"])


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
