"""Rewrites change weights, never what a layer computes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from quantize.checkpoint import open_checkpoint
from quantize.methods import METHODS, HessianFactor
from quantize.methods.gptq import factor
from quantize.methods.rtn import rtn
from quantize.rewrites import REWRITES, check_preserved
from quantize.rewrites.scales import candidate
from quantize.run.recipe import Recipe
from quantize.run.rewriting import rewrite_layer
from runtime.errors import EdgequantError
from runtime.forward import Layer
from runtime.quant_types import QUANT_TYPES
from tests.quantize.layers import computed, hessians_of, layer_of

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("exact_products")]

NAMES = ["qwen2-tied", "qwen2-untied", "llama-untied"]


class Case:
    """A layer of a random model with two strong input channels, and its statistics."""

    def __init__(self, folder: Path) -> None:
        checkpoint = open_checkpoint(str(folder))
        self.arch, self.spec = checkpoint.arch, checkpoint.arch.layer(0)
        self.weights = dict(layer_of(checkpoint).weights)
        for norm, linears in (
            ("attn_norm", ("attn_q", "attn_k", "attn_v")),
            ("ffn_norm", ("ffn_gate", "ffn_up")),
        ):
            self.weights[f"{norm}.weight"][[3, 40]] *= 32
            for linear in linears:
                self.weights[f"{linear}.weight"][:, [3, 40]] /= 32
        random = np.random.default_rng(0)
        hidden = random.normal(size=(4, 64, self.arch.hidden)).astype(np.float32)
        with torch.inference_mode():
            self.hessians = hessians_of(Layer(self.spec, self.weights), hidden)
        self.types = dict.fromkeys(self.spec.linears, QUANT_TYPES["Q4_0"])

    def rewritten(self, name: str):
        recipe = Recipe(METHODS["gptq"], rewrites=(name,))
        return rewrite_layer(self.spec, self.weights, self.types, self.hessians, recipe, "blk.0")


@pytest.mark.parametrize("name", REWRITES)
@pytest.mark.parametrize("model", NAMES)
def test_a_rewrite_keeps_what_the_layer_computes_in_float64(
    name: str, model: str, random_models: dict[str, Path]
) -> None:
    case = Case(random_models[model])
    wide = {key: weight.double() for key, weight in case.weights.items()}
    hessians = {key: hessian.double() for key, hessian in case.hessians.items()}
    new = dict(wide)
    REWRITES[name].apply(new, case.spec.groups, case.types, hessians, 0.01)
    assert any(not torch.equal(new[key], wide[key]) for key in wide)
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 16, case.arch.hidden)))
    before, after = (computed(case.spec, weights, x) for weights in (wide, new))
    torch.testing.assert_close(after, before, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", REWRITES)
def test_hessians_of_a_rewritten_layer_are_those_of_its_own_inputs(
    name: str, random_models: dict[str, Path]
) -> None:
    case = Case(random_models["qwen2-tied"])
    weights, hessians = case.rewritten(name)
    hidden = np.random.default_rng(0).normal(size=(4, 64, case.arch.hidden)).astype(np.float32)
    with torch.inference_mode():
        own = hessians_of(Layer(case.spec, weights), hidden)
    for group, hessian in hessians.items():
        scale = float(own[group].diagonal().mean())
        torch.testing.assert_close(hessian, own[group], rtol=1e-3, atol=1e-4 * scale)


def test_scales_even_out_injected_outlier_channels(random_models: dict[str, Path]) -> None:
    case = Case(random_models["qwen2-tied"])
    weights, _ = case.rewritten("scales")
    for norm in ("attn_norm.weight", "ffn_norm.weight"):
        spread = case.weights[norm].abs().max() / case.weights[norm].abs().median()
        assert spread > 20
        assert weights[norm].abs().max() / weights[norm].abs().median() < spread / 8


def test_a_candidate_is_judged_as_if_its_hessian_had_been_factored(
    random_models: dict[str, Path],
) -> None:
    case = Case(random_models["qwen2-tied"])
    linears = [case.weights[f"{linear}.weight"] for linear in case.spec.groups[0].linears]
    hessian = case.hessians["attn_qkv"] + 0.1 * torch.eye(case.arch.hidden)
    scale = candidate(linears, hessian, 0.5)
    short = HessianFactor(factor(hessian, 1e-9).importance / scale.square())
    long = factor(hessian / scale / scale[:, None], 1e-9)
    torch.testing.assert_close(short.importance, long.importance, rtol=1e-3, atol=0)
    one, other = (rtn(linears[0] * scale, QUANT_TYPES["Q4_0"], f) for f in (short, long))
    assert (one.codes != other.codes).float().mean() < 0.01


def test_a_rewrite_that_changes_the_layer_stops_with_its_name(
    random_models: dict[str, Path],
) -> None:
    case = Case(random_models["llama-untied"])
    broken = case.weights | {"ffn_up.weight": case.weights["ffn_up.weight"] * 1.1}
    with pytest.raises(EdgequantError, match=r"^blk\.7: a rewrite changed what the layer computes"):
        check_preserved(case.spec, case.weights, broken, "blk.7")
    broken["ffn_up.weight"] = broken["ffn_up.weight"] * float("nan")
    with pytest.raises(EdgequantError, match=r"^blk\.7: "):
        check_preserved(case.spec, case.weights, broken, "blk.7")
