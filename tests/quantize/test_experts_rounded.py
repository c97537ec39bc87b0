"""Experts: each has statistics of its own, and is rounded by them."""

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgequant
from quantize.calibration import experts
from quantize.calibration.compensation import Compared, ComparedPrefix, compared, compensate
from quantize.calibration.experts import ExpertHessians, Share, tokens_needed
from quantize.calibration.hessian import Hessians
from quantize.calibration.hessian_cost import hessian_bytes, hessian_flops, plain_hessian_bytes
from quantize.calibration.layer_cost import forward_flops, layer_bytes, read_width, streamed_bytes
from quantize.calibration.routed import Routed
from quantize.calibration.stream import OriginalLayers, run
from quantize.calibration.streamed import Streamed
from quantize.checkpoint import Checkpoint, open_checkpoint
from quantize.methods import METHODS
from quantize.run.pieces import quantize_weight
from quantize.run.recipe import Recipe
from quantize.run.rounding import quantize_layer
from runtime.archs import family_of
from runtime.backends.torch import TorchOps
from runtime.errors import InputError, UnsupportedError
from runtime.forward import Layer, Observer
from runtime.gguf_file import open_gguf
from runtime.quant_types import QUANT_TYPES
from tests.moe_models import QWEN2, QWEN3, moe
from tests.one_file_models import SIZES
from tests.quantize.layers import CPU, embedded, layer_of
from tests.quantize.runs import assigned, same, small_plan, walk
from tests.quantize.test_fisher import close, measured, twin

pytestmark = pytest.mark.numeric

ROWS, LENGTH = 6, 40
EXPERTS = 6


@pytest.fixture(scope="module", params=["qwen2", "qwen3"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Checkpoint:
    config = {"qwen2": QWEN2, "qwen3": QWEN3}[request.param]
    return open_checkpoint(moe(tmp_path_factory.mktemp("moe") / "model", config))


def states(checkpoint: Checkpoint, seed: int = 0) -> np.ndarray:
    ids = np.random.default_rng(seed).integers(0, 4096, (ROWS, LENGTH))
    return embedded(checkpoint, ids)


class Inputs(Observer):
    """What the router read, (tokens, D)."""

    def __init__(self) -> None:
        self.parts: list[torch.Tensor] = []

    def read(self, group: str, x: torch.Tensor) -> None:
        if group == "ffn_router":
            self.parts.append(x.reshape(-1, x.shape[-1]))

    @property
    def tokens(self) -> torch.Tensor:
        return torch.cat(self.parts)


def chosen(layer: Layer, x: torch.Tensor) -> torch.Tensor:
    """(tokens, experts): which experts each token goes through."""
    scores = x @ layer.weights["ffn_gate_inp.weight"].T
    return scores >= scores.sort(1).values[:, -2:-1]


def inner(layer: Layer, expert: int, x: torch.Tensor) -> torch.Tensor:
    """What an expert's down reads of x."""
    gate, up = (layer.weights[f"ffn_{part}_exps.weight"][expert] for part in ("gate", "up"))
    return torch.nn.functional.silu(x @ gate.T) * (x @ up.T)


def watched(layer: Layer, hidden: np.ndarray, observer: Observer) -> None:
    """Run the states through a layer, some rows at a time."""
    run(TorchOps(), layer, hidden, None, {}, observer, 2 * LENGTH)


def empty(count: int = ROWS * LENGTH) -> Routed:
    """Room for what a router reads."""
    return Routed(np.zeros((count, 64), np.float32), EXPERTS)


def experts_of(
    layer: Layer,
    hidden: np.ndarray,
    weights: dict[str, np.ndarray] | None = None,
    share: Share = "none",
) -> ExpertHessians:
    """The Hessians of a layer's experts."""
    observer = Hessians(layer.spec, CPU, weights, empty())
    watched(layer, hidden, observer)
    assert observer.router
    return ExpertHessians(TorchOps(), layer, observer.router, observer.tokens, share)


def test_an_expert_s_hessian_is_that_of_its_tokens(checkpoint: Checkpoint) -> None:
    layer, hidden = layer_of(checkpoint), states(checkpoint)
    found, inputs = experts_of(layer, hidden), Inputs()
    watched(layer, hidden, inputs)
    table = chosen(layer, inputs.tokens)
    assert table.sum(1).eq(2).all()
    for expert in range(EXPERTS):
        x = inputs.tokens[table[:, expert]]
        close(found[f"ffn_experts_gate_up.{expert}"], x.T @ x / max(1, len(x)))
        y = inner(layer, expert, x)
        close(found[f"ffn_experts_down.{expert}"], y.T @ y / max(1, len(x)))


def test_tokens_weigh_in_every_expert_that_they_choose(checkpoint: Checkpoint) -> None:
    layer, hidden = layer_of(checkpoint), states(checkpoint)
    weights = np.random.default_rng(1).random((ROWS, LENGTH), np.float32)
    found, inputs = experts_of(layer, hidden, {"ffn_experts_gate_up": weights}), Inputs()
    watched(layer, hidden, inputs)
    table = chosen(layer, inputs.tokens)
    for expert in range(EXPERTS):
        x = inputs.tokens[table[:, expert]]
        w = torch.from_numpy(weights).flatten()[table[:, expert]]
        close(found[f"ffn_experts_gate_up.{expert}"], (x.T * w) @ x / max(1, len(x)))


def test_an_expert_of_few_tokens_learns_from_a_sample_as_well(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, hidden = layer_of(checkpoint), states(checkpoint)
    inputs = Inputs()
    watched(layer, hidden, inputs)
    table = chosen(layer, inputs.tokens)
    counts = table.sum(0)
    least = int(counts.sort().values[2])
    monkeypatch.setattr(experts, "ENOUGH", (least + 0.5) / 64)  # of channels of gate and up
    found = experts_of(layer, hidden, share="few")
    (line,) = found.notes()
    few = (counts <= least).nonzero().flatten().tolist()
    assert line.startswith(f"{len(few)} of 6 experts ({', '.join(map(str, few))}) saw under ")
    sample = inputs.tokens[:: ROWS * LENGTH // tokens_needed(64)]
    for expert in range(EXPERTS):
        x = inputs.tokens[table[:, expert]]
        if counts[expert] <= least:
            x = torch.cat([x, sample])
        close(found[f"ffn_experts_gate_up.{expert}"], x.T @ x / len(x))
        enough = counts[expert] >= tokens_needed(32)
        y = inner(layer, expert, inputs.tokens[table[:, expert]] if enough else x)
        close(found[f"ffn_experts_down.{expert}"], y.T @ y / len(y))


def test_every_expert_may_learn_from_every_token(checkpoint: Checkpoint) -> None:
    layer, hidden = layer_of(checkpoint), states(checkpoint)
    found, inputs = experts_of(layer, hidden, share="all"), Inputs()
    watched(layer, hidden, inputs)
    x = inputs.tokens
    for expert in range(EXPERTS):
        close(found[f"ffn_experts_gate_up.{expert}"], x.T @ x / len(x))
        y = inner(layer, expert, x)
        close(found[f"ffn_experts_down.{expert}"], y.T @ y / len(x))
    assert found.notes() == ["all 6 experts learn from every token (--calibrate-all-experts)"]


def test_nothing_is_lent_where_all_saw_enough(checkpoint: Checkpoint, monkeypatch: Any) -> None:
    monkeypatch.setattr(experts, "ENOUGH", 0.0)
    layer, hidden = layer_of(checkpoint), states(checkpoint)
    found = experts_of(layer, hidden, share="few")
    assert found.notes() == []
    own = experts_of(layer, hidden, share="none")
    assert all(torch.equal(found[name], own[name]) for name in own)


def test_streamed_experts_are_those_of_the_whole_layer(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    fused = open_checkpoint(moe(tmp_path / "fused", dict(checkpoint.config), fuse=True))
    for source in (checkpoint, fused):
        whole = layer_of(checkpoint, 1)
        layer = OriginalLayers(source, CPU, streamed=True).layer(1)
        for part in ("gate", "up", "down"):
            name = f"ffn_{part}_exps.weight"
            for expert in (5, 0, 3):
                assert torch.equal(layer.weights[name][expert], whole.weights[name][expert])


def test_statistics_of_one_expert_are_in_memory_at_a_time(checkpoint: Checkpoint) -> None:
    found = experts_of(layer_of(checkpoint), states(checkpoint))
    for expert in range(EXPERTS):
        assert f"ffn_experts_down.{expert}" in found
        assert found[f"ffn_experts_down.{expert}"].shape == (32, 32)
        assert set(found.found) == {f"ffn_experts_{p}.{expert}" for p in ("gate_up", "down")}


@pytest.mark.parametrize("method", ["gptq", "awq", "awq-gptq"])
def test_each_expert_is_rounded_as_if_alone(checkpoint: Checkpoint, method: str) -> None:
    layer, observer = layer_of(checkpoint), Hessians(layer_of(checkpoint).spec, CPU)
    watched(layer, states(checkpoint), observer)
    hessians = observer.mean() | dict(experts_of(layer, states(checkpoint), share="few"))
    recipe = Recipe(METHODS[method], descent_iterations=1)
    q4, f32 = QUANT_TYPES["Q4_0"], QUANT_TYPES["F32"]
    types = {n: f32 if linear.precise else q4 for n, linear in layer.spec.linears.items()}
    result = quantize_layer(layer.weights, layer.spec.groups, types, hessians, recipe)
    router = result.values["ffn_gate_inp.weight"]
    assert torch.equal(router, layer.weights["ffn_gate_inp.weight"])
    for group in (group for group in layer.spec.groups if group.expert is not None):
        factor, _ = recipe.factor(hessians[group.name], "")
        for linear in group.linears:
            weight = group.matrix(linear, layer.weights)
            rows, value = quantize_weight(weight, q4, recipe, factor)
            stored = result.packed[f"{linear}.weight"].reshape(EXPERTS, len(rows), -1)
            np.testing.assert_array_equal(stored[group.expert], rows)
            assert torch.equal(result.values[f"{linear}.weight"][group.expert], value)
    assert result.values["ffn_down_exps.weight"][5].shape == (64, 32)


def test_compensation_leaves_experts_and_router_alone(checkpoint: Checkpoint) -> None:
    layer, exact = layer_of(checkpoint), states(checkpoint)
    noise = np.random.default_rng(1).normal(0, exact.std() / 10, exact.shape)
    observer = Compared(layer.spec, CPU, routed=empty())
    ComparedPrefix((exact + noise).astype(np.float32), exact).advance(TorchOps(), layer, observer)
    assert layer.spec.output_factor is None
    groups, weights, out = compared(layer.spec), layer.weights, dict(layer.weights)
    compensate(out, groups, observer.mean(), observer.errors, 0.01)
    changed = {name for name in weights if not torch.equal(out[name], weights[name])}
    assert "attn_q.weight" in changed
    assert not any("exps" in name or "inp" in name for name in changed)


def test_gradients_of_experts_are_those_of_the_whole_model(
    checkpoint: Checkpoint, native_settings: Any
) -> None:
    native_settings.set_exact(True)
    ids = np.random.default_rng(3).integers(0, 4096, (ROWS, LENGTH))
    found = measured(checkpoint, ids)
    ops = twin(checkpoint, ids, found.tokens).ops
    for index, layer in found.layers.items():
        sizes: dict[str, float] = {}
        for group in checkpoint.arch.layer(index).groups:
            names = [f"blk.{index}.{linear}.weight" for linear in group.linears]
            if group.expert is not None:
                names = [f"{name}.{group.expert}" for name in names]
            if names[0] not in ops.wrote:
                continue
            gradients = [ops.gradient(name) for name in names]
            for linear, gradient in zip(group.linears, gradients, strict=True):
                rows = gradient.square().sum(0) / ids.size
                close(layer.rows[group.part(linear)], rows)
            weight = torch.stack([g.square().sum(1) for g in gradients]).sum(0)
            x = ops.read[names[0]]
            close(layer.hessians[group.name], (x.T * weight) @ x / weight.sum())
            sizes[group.stem] = sizes.get(group.stem, 0.0) + float(weight.sum())
        for stem, total in sizes.items():
            assert np.square(layer.tokens[stem]).sum() == pytest.approx(total, rel=1e-3)


def test_one_expert_is_in_memory_at_a_time_on_the_way_back(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Any] = []
    real = Streamed.__getitem__

    def watched(weight: Streamed, expert: int) -> torch.Tensor:
        assert not any(there() is not None for there in decoded)
        values = real(weight, expert).numpy().copy()  # lives as long as any tensor that shares it
        decoded.append(weakref.ref(values))
        return torch.from_numpy(values)

    monkeypatch.setattr(Streamed, "__getitem__", watched)
    ids = np.random.default_rng(3).integers(0, 4096, (ROWS, LENGTH))
    measured(checkpoint, ids)
    # forward; once more and back; each of three matrices
    assert len(decoded) >= 3 * 3 * EXPERTS * checkpoint.arch.layers


@pytest.mark.slow
@pytest.mark.parametrize("effort", ["low", "medium", "high"])
def test_a_walk_rounds_experts_and_says_which_saw_little(
    checkpoint: Checkpoint, effort: str, tmp_path: Path
) -> None:
    plan = small_plan(checkpoint.folder, "gguf:Q4_0", effort=effort, rows=4, length=32)
    done = walk(plan, tmp_path / "whole")
    tensors, types = done.tensors(), done.assignments[0].types
    assert types["blk.0.ffn_gate_inp.weight"].name == "F32"
    router = "blk.1.ffn_gate_inp.weight"
    expected = checkpoint.tensors[router].decode()
    np.testing.assert_array_equal(tensors[router].decode(), expected)
    assert any(" of 6 experts (" in note for note in done.notes())
    again = walk(plan, tmp_path / "again")
    assert same(again.tensors(), tensors)


@pytest.mark.slow
def test_all_experts_are_calibrated_where_that_is_asked_for(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    flags: dict[str, Any] = {"rows": 4, "length": 32, "effort": "low"}
    plan = small_plan(checkpoint.folder, "gguf:Q4_0", calibrate_all_experts=True, **flags)
    done = walk(plan, tmp_path / "all")
    assert plan.recipe()["calibrate_all_experts"] is True
    told = "all 6 experts learn from every token (--calibrate-all-experts)"
    assert sum(told in note for note in done.notes()) == checkpoint.arch.layers
    few = walk(small_plan(checkpoint.folder, "gguf:Q4_0", **flags), tmp_path / "few")
    own, every = few.tensors(), done.tensors()
    name = "blk.0.ffn_down_exps.weight"
    assert not np.array_equal(own[name].data, every[name].data)
    np.testing.assert_array_equal(
        own["blk.0.attn_q.weight"].data, every["blk.0.attn_q.weight"].data
    )


def test_all_experts_of_a_model_without_any_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no experts, which calibrate_all_experts is about"):
        edgequant.quantize(None, "gguf:Q4_0", tmp_path / "out", calibrate_all_experts=True)
    assert not (tmp_path / "out").exists()


def test_all_experts_without_calibration_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="says what experts learn from, and rtn reads no text"):
        small_plan(tmp_path, "gguf:Q4_0", method="rtn", calibrate_all_experts=True)


def test_costs_count_the_experts_of_a_token_and_the_statistics_of_all() -> None:
    spec = thirty_billion()
    per_token = 2 * (2048**2 * 2 + 2048 * 512 * 2 + 8 * 3 * 2048 * 768 + 128 * 2048)
    assert forward_flops(spec, 1) == per_token
    assert read_width(spec) == 2048 + 2048 + 2048 + 8 * (2048 + 768)
    squares = 3 * 2048**2
    assert hessian_flops(spec, 1) == squares + 8 * (2048**2 + 768**2)
    assert hessian_bytes(spec) == 4 * (squares + 128 * (2048**2 + 768**2))
    assert plain_hessian_bytes(spec) == 4 * squares
    assert layer_bytes(spec) > 4 * 128 * 3 * 2048 * 768
    assert streamed_bytes(spec) < layer_bytes(spec) / 10


def thirty_billion() -> Any:
    """A layer of 128 experts."""
    config = (
        SIZES
        | QWEN3
        | {
            "hidden_size": 2048,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
        }
    )
    return family_of(config).arch(config).layer(0)


@pytest.mark.slow
def test_an_automatic_target_leaves_the_router_precise(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    flags: dict[str, Any] = {"target_bpw": 6, "rows": 4, "length": 64, "check": False}
    done = edgequant.quantize(checkpoint.folder, "gguf:auto", tmp_path, **flags)
    found = open_gguf(done.artifacts[0].path).tensors
    types = {name.split(".")[2]: t.qtype.name for name, t in found.items() if "blk.1" in name}
    assert types["ffn_gate_inp"] == "F32"
    assert types["ffn_down_exps"] not in ("F32", "F16", "BF16")


@pytest.mark.parametrize("target", ["gguf:auto", "gguf:Q4_0"])
def test_what_gguf_cannot_say_is_refused_before_any_work(target: str, tmp_path: Path) -> None:
    folder = moe(tmp_path / "model", QWEN3 | {"norm_topk_prob": False})
    steps: list[str] = []
    flags: dict[str, Any] = {"rows": 4, "length": 64, "check": False}
    flags |= {"target_bpw": 6} if target == "gguf:auto" else {}
    with pytest.raises(UnsupportedError, match="always normalizes the experts' weights"):
        edgequant.quantize(
            folder, target, tmp_path / "out", progress=lambda *step: steps.append(step[0]), **flags
        )
    assert steps == []


def test_a_rule_may_round_the_router(checkpoint: Checkpoint, tmp_path: Path) -> None:
    plan = small_plan(checkpoint.folder, "gguf:Q4_0", rules=["ffn_gate_inp=Q8_0"])
    types = assigned(plan, tmp_path).assignments[0].types
    assert types["blk.0.ffn_gate_inp.weight"].name == "Q8_0"
