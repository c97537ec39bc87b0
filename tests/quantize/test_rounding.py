"""Hessians, folding and rounding of one layer, against dense and obvious twins."""

from pathlib import Path

import numpy as np
import pytest
import torch

from quantize.calibration.stream import Weights
from quantize.checkpoint import Checkpoint, bundled, open_checkpoint
from quantize.methods import METHODS
from quantize.methods.rtn import rtn
from quantize.run.pieces import error_of
from quantize.run.recipe import Recipe
from quantize.run.rewriting import fold_scales
from quantize.run.rounding import quantize_layer
from runtime.archs import InputGroup
from runtime.backends.torch import TorchOps
from runtime.engine import OpsEngine
from runtime.errors import EdgequantError
from runtime.forward import Layer
from runtime.model import Model
from runtime.quant_types import QUANT_TYPES, numpy_of, to_numpy
from runtime.tensor import Tensor
from tests.conftest import CONFIGS, config
from tests.quantize.layers import computed, embedded, hessians_of, layer_of
from tests.random_checkpoint import random_checkpoint

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("exact_products")]

LINEARS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


class Recording(TorchOps):
    """Torch, remembering what each weight was multiplied with."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[int, str] = {}
        self.inputs: dict[str, torch.Tensor] = {}

    def load(self, tensor: Tensor) -> torch.Tensor:
        weight = super().load(tensor)
        self.names[id(weight)] = tensor.name
        return weight

    def matmul(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        self.inputs[self.names[id(weight)]] = x.reshape(-1, x.shape[-1])
        return super().matmul(x, weight, bias)

    def hessian(self, name: str) -> torch.Tensor:
        """X^T X / tokens of everything that went into a weight."""
        x = self.inputs[name]
        return x.T @ x / len(x)


def dense_run(model: Model, ids: np.ndarray) -> Recording:
    """The whole model at once on all tokens."""
    ops = Recording()
    OpsEngine(model, ops).logits(ids)
    return ops


@pytest.mark.parametrize("name", CONFIGS)
def test_hessians_are_those_of_a_dense_run(name: str, random_models: dict[str, Path]) -> None:
    checkpoint = open_checkpoint(random_models[name])
    ids = np.random.default_rng(0).integers(0, 4096, (5, 40))
    dense = dense_run(checkpoint.model(), ids)
    hidden = embedded(checkpoint, ids)
    for index in range(checkpoint.arch.layers):
        layer = layer_of(checkpoint, index)
        found = hessians_of(layer, hidden, hidden, step=80)  # two rows, and one left over
        for group in layer.spec.groups:
            for linear in group.linears:
                expected = dense.hessian(f"blk.{index}.{linear}.weight")
                torch.testing.assert_close(found[group.name], expected, rtol=1e-4, atol=1e-6)


def test_statistics_leave_the_states_alone_when_asked(random_models: dict[str, Path]) -> None:
    checkpoint = open_checkpoint(random_models["qwen2-tied"])
    hidden = embedded(checkpoint, np.arange(40).reshape(2, 20))
    before = hidden.copy()
    hessians_of(layer_of(checkpoint), hidden)
    assert np.array_equal(hidden, before)


@pytest.fixture(scope="module")
def multi_head(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A model in which every query head has its own keys, so that attn_output can be scaled too."""
    folder = tmp_path_factory.mktemp("models") / "mha"
    facts = config("llama-untied", num_key_value_heads=6, num_hidden_layers=1)
    random_checkpoint(folder, facts, bundled())
    return open_checkpoint(folder)


def test_weights_of_tokens_weigh_the_hessian_of_their_group_alone(
    random_models: dict[str, Path],
) -> None:
    checkpoint = open_checkpoint(random_models["qwen2-untied"])
    draw = np.random.default_rng(3)
    ids = draw.integers(0, 4096, (5, 40))
    dense = dense_run(checkpoint.model(), ids)
    tokens = {"ffn_down": draw.random((5, 40), np.float32)}
    hidden = embedded(checkpoint, ids)
    found = hessians_of(layer_of(checkpoint), hidden, None, tokens, step=80)
    x = dense.inputs["blk.0.ffn_down.weight"]
    weighed = (x.T * torch.from_numpy(tokens["ffn_down"].ravel())) @ x / len(x)
    torch.testing.assert_close(found["ffn_down"], weighed, rtol=1e-4, atol=1e-6)
    expected = dense.hessian("blk.0.ffn_gate.weight")
    torch.testing.assert_close(found["ffn_gate_up"], expected, rtol=1e-4, atol=1e-6)


def test_passes_after_rounding_lower_the_loss_each_time(
    random_models: dict[str, Path],
) -> None:
    checkpoint = open_checkpoint(random_models["qwen2-untied"])
    layer = layer_of(checkpoint)
    hidden = embedded(checkpoint, np.random.default_rng(4).integers(0, 4096, (5, 40)))
    hessians, groups = hessians_of(layer, hidden), layer.spec.groups
    types = dict.fromkeys(LINEARS, QUANT_TYPES["Q4_0"])
    recipes = [Recipe(METHODS["gptq"], descent_iterations=passes) for passes in (0, 1, 3)]
    losses = [
        quantize_layer(layer.weights, groups, types, hessians, recipe).losses for recipe in recipes
    ]
    for linear in LINEARS:
        assert losses[0][linear] > losses[1][linear] >= losses[2][linear]


@pytest.mark.parametrize("name", ["multi-head", "qwen2-tied"])
def test_folded_scales_keep_what_the_layer_computes(
    name: str, multi_head: Checkpoint, random_models: dict[str, Path]
) -> None:
    checkpoint = multi_head if name == "multi-head" else open_checkpoint(random_models[name])
    hidden, spec = checkpoint.arch.hidden, checkpoint.arch.layer(0)
    random = torch.Generator().manual_seed(0)
    plain = dict(layer_of(checkpoint).weights)
    for key, vector in plain.items():
        if vector.ndim == 1:  # biases and norms that matter
            plain[key] = vector + torch.rand(vector.shape, generator=random)
    x = torch.randn(2, 30, hidden, generator=random) * torch.rand(hidden, generator=random)
    hessians = hessians_of(Layer(spec, plain), x.numpy())
    folded = dict(plain)
    types = dict.fromkeys(LINEARS, QUANT_TYPES["INT4_32"])
    fold_scales(folded, spec.groups, types, hessians, METHODS["awq"])
    moved = {key for key in plain if not torch.equal(plain[key], folded[key])}
    assert {"attn_norm.weight", "ffn_norm.weight", "attn_q.weight", "ffn_down.weight"} <= moved
    assert ("attn_output.weight" in moved) == (name == "multi-head")
    assert ("attn_v.bias" in moved) == (name == "multi-head")
    before, after = computed(spec, plain, x), computed(spec, folded, x)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_folding_moves_the_hessian_along(multi_head: Checkpoint) -> None:
    spec, weights = multi_head.arch.layer(0), dict(layer_of(multi_head).weights)
    x = np.random.default_rng(0).normal(size=(2, 30, 96)).astype(np.float32)
    hessians = hessians_of(Layer(spec, weights), x)
    types = dict.fromkeys(LINEARS, QUANT_TYPES["INT4_32"])
    fold_scales(weights, spec.groups, types, hessians, METHODS["awq"])
    again = hessians_of(Layer(spec, weights), x)
    for group, hessian in hessians.items():
        torch.testing.assert_close(hessian, again[group], rtol=1e-3, atol=1e-5)


GROUPS = (
    InputGroup("inputs", ("up", "gate"), 32, fold="norm"),
    InputGroup("inner", ("down",), 64, fold="up"),
)


def two_groups() -> tuple[Weights, dict[str, torch.Tensor]]:
    """A layer of three linears, and a Hessian for each input."""
    random = torch.Generator().manual_seed(1)
    shapes = {"up": (64, 32), "gate": (64, 32), "down": (32, 64)}
    weights = {f"{k}.weight": torch.randn(s, generator=random) for k, s in shapes.items()}
    weights["norm.weight"] = torch.ones(32)
    x = {group.name: torch.randn(200, group.width, generator=random) for group in GROUPS}
    return weights, {group: values.T @ values / 200 for group, values in x.items()}


TYPES = {"up": QUANT_TYPES["INT4_32"], "gate": QUANT_TYPES["INT8_32"], "down": QUANT_TYPES["F32"]}


def test_each_linear_gets_its_own_type_and_its_groups_factor() -> None:
    weights, hessians = two_groups()
    result = quantize_layer(weights, GROUPS, TYPES, hessians, Recipe(METHODS["gptq"]))
    factor = METHODS["gptq"].factor(hessians["inputs"], 0.01)
    rounded = METHODS["gptq"].round(weights["gate.weight"], TYPES["gate"], factor)
    packed = TYPES["gate"].pack(numpy_of(rounded.codes), to_numpy(rounded.params))
    assert np.array_equal(result.packed["gate.weight"], packed)
    assert torch.equal(result.values["down.weight"], weights["down.weight"])
    assert result.losses["down"] == 0
    assert np.array_equal(result.packed["norm.weight"].view("<f4")[0], np.ones(32))


def test_losses_are_relative_squared_errors_of_the_outputs() -> None:
    weights, hessians = two_groups()
    result = quantize_layer(weights, GROUPS, TYPES, hessians, Recipe(METHODS["gptq"]))
    root = torch.linalg.cholesky(hessians["inputs"].double())  # H = L L^T, so X may be L^T
    for linear in ("up", "gate"):
        outputs = weights[f"{linear}.weight"].double() @ root
        rounded = result.values[f"{linear}.weight"].double() @ root
        expected = (rounded - outputs).square().sum() / outputs.square().sum()
        assert result.losses[linear] == pytest.approx(float(expected), rel=1e-3)


def test_without_statistics_the_loss_is_that_of_the_weights() -> None:
    weights, _ = two_groups()
    result = quantize_layer(weights, GROUPS, TYPES, {}, Recipe(METHODS["rtn"]))
    weight = weights["up.weight"]
    error = (rtn(weight, TYPES["up"]).value - weight).square().sum() / weight.square().sum()
    assert result.losses["up"] == pytest.approx(float(error))


def test_rounding_some_rows_at_a_time_changes_nothing() -> None:
    weights, hessians = two_groups()
    whole = quantize_layer(weights, GROUPS, TYPES, hessians, Recipe(METHODS["gptq"]))
    recipe = Recipe(METHODS["gptq"])
    parts = quantize_layer(weights, GROUPS, TYPES, hessians, recipe, chunk=5 * 32)
    for name, packed in whole.packed.items():
        assert np.array_equal(parts.packed[name], packed)


def test_a_singular_hessian_names_the_layer_and_the_way_out() -> None:
    weights, hessians = two_groups()
    hessians["inputs"] = torch.zeros(32, 32)
    with pytest.raises(EdgequantError, match=r"blk.7.up/gate: .*singular.*--allow-fallback"):
        quantize_layer(weights, GROUPS, TYPES, hessians, Recipe(METHODS["gptq"]), "blk.7.")


def test_an_allowed_fallback_rounds_to_nearest_and_says_so() -> None:
    weights, hessians = two_groups()
    hessians["inputs"] = torch.full((32, 32), float("nan"))
    recipe = Recipe(METHODS["gptq"], allow_fallback=True)
    result = quantize_layer(weights, GROUPS, TYPES, hessians, recipe, "blk.7.")
    assert result.notes == (
        "blk.7.up/gate: singular Hessian, rounded to nearest (--allow-fallback)",
    )
    assert torch.equal(result.values["up.weight"], rtn(weights["up.weight"], TYPES["up"]).value)


def test_damping_that_grew_is_told() -> None:
    weights, hessians = two_groups()
    hessians["inputs"] = torch.diag(torch.tensor([1.0] * 31 + [-0.05]))
    result = quantize_layer(weights, GROUPS, TYPES, hessians, Recipe(METHODS["gptq"]), "blk.7.")
    assert result.notes == ("blk.7.up/gate: damping grew to 0.1",)


@pytest.mark.parametrize("known", ["hessian", "diagonal", "nothing"])
def test_errors_are_those_of_the_whole_form(known: str) -> None:
    draw = torch.Generator().manual_seed(0)
    weight, value = (torch.randn(50, 12, generator=draw, dtype=torch.float64) for _ in range(2))
    root = torch.randn(12, 12, generator=draw, dtype=torch.float64)
    hessian = {"hessian": root @ root.T, "diagonal": root[0].square(), "nothing": None}[known]
    full = torch.eye(12, dtype=torch.float64) if hessian is None else hessian
    full = full.diag() if full.ndim == 1 else full
    expected = [float((e @ full @ e.T).trace()) for e in (weight - value, weight)]
    assert error_of(weight, value, hessian) == pytest.approx(expected)
