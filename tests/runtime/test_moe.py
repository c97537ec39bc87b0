"""A mixture of experts: against a loop over tokens, on both backends that define it."""

import numpy as np
import pytest

from runtime.archs import GatedMLP, LayerSpec, Linear, MoE, Norm, Residual
from runtime.backends.numpy import NumpyOps
from runtime.backends.torch import TorchOps
from runtime.forward import Layer, Observer, Positions, decoder_layer
from runtime.tensor import Tensor
from tests.small_models import assert_near

pytestmark = pytest.mark.numeric

HIDDEN, INNER, EXPERTS = 16, 24, 5


def mlp(name: str, experts: int | None) -> GatedMLP:
    """Gate, up and down of one expert, or of several stored as one."""
    at = "{expert}" if experts else name
    sizes = {"gate": (INNER, HIDDEN), "up": (INNER, HIDDEN), "down": (HIDDEN, INNER)}
    return GatedMLP(
        *(
            Linear(f"ffn_{part}_{name}", f"mlp.{at}.{part}_proj", *size, experts=experts)
            for part, size in sizes.items()
        )
    )


def spec(normalized: bool, shared: bool) -> LayerSpec:
    """A layer of nothing but a mixture."""
    router = Linear("ffn_gate_inp", "mlp.gate", EXPERTS, HIDDEN)
    gate = Linear("ffn_gate_inp_shexp", "mlp.shared_expert_gate", 1, HIDDEN)
    own = mlp("shexp", None) if shared else None
    moe = MoE(router, mlp("exps", EXPERTS), 2, normalized, own, gate if shared else None)
    return LayerSpec((Norm("ffn_norm", "norm", HIDDEN, 1e-6), moe, Residual()))


def slow(layer: LayerSpec, weights: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """x (T, D) through the layer in float64, a token at a time."""
    w = {
        name.removesuffix(".weight"): values.astype(np.float64) for name, values in weights.items()
    }
    op = next(op for op in layer.ops if isinstance(op, MoE))

    def silu(values: np.ndarray) -> np.ndarray:
        return values / (1 + np.exp(-values))

    def expert(name: str, y: np.ndarray, at: object) -> np.ndarray:
        gate, up, down = (w[f"ffn_{part}_{name}"][at] for part in ("gate", "up", "down"))
        return down @ (silu(gate @ y) * (up @ y))

    out = np.zeros(x.shape)
    for token, row in enumerate(x.astype(np.float64)):
        y = row / np.sqrt((row**2).mean() + 1e-6) * w["ffn_norm"]
        scores = np.exp(w["ffn_gate_inp"] @ y)
        shares = scores / scores.sum()
        best = np.argsort(-shares)[: op.top_k]
        total = shares[best].sum() if op.normalized else 1.0
        out[token] = row + sum(shares[at] / total * expert("exps", y, at) for at in best)
        if op.shared:
            share = 1 / (1 + np.exp(-(w["ffn_gate_inp_shexp"] @ y)))
            out[token] += share * expert("shexp", y, ...)
    return out


@pytest.mark.parametrize("ops", [NumpyOps(), TorchOps()], ids=["numpy", "torch"])
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_each_token_goes_through_its_best_experts(
    ops: NumpyOps | TorchOps, normalized: bool, shared: bool
) -> None:
    layer, draw = spec(normalized, shared), np.random.default_rng(0)
    weights = {n: draw.normal(0, 0.5, s).astype(np.float32) for n, s in layer.shapes.items()}
    assert weights["ffn_down_exps.weight"].shape == (EXPERTS, HIDDEN, INNER)
    x = draw.normal(size=(2, 7, HIDDEN)).astype(np.float32)
    loaded = {name: ops.load(Tensor.dense(name, values)) for name, values in weights.items()}
    given = x if isinstance(ops, NumpyOps) else torch_of(x)
    found = ops.numpy(decoder_layer(ops, Layer(layer, loaded), given, Positions(0, 7)))
    expected = slow(layer, weights, x.reshape(-1, HIDDEN)).reshape(x.shape)
    assert_near(found, expected.astype(np.float32))


def torch_of(x: np.ndarray) -> object:
    """The same numbers for torch."""
    import torch

    return torch.from_numpy(x)


def test_an_observer_sees_every_input_group_of_a_mixture() -> None:
    layer, draw = spec(True, True), np.random.default_rng(1)
    seen: dict[str, int] = {}

    class Widths(Observer):
        def read(self, group: str, x: np.ndarray) -> None:
            seen[group] = x.shape[-1]

    ops = NumpyOps()
    loaded = {
        name: ops.load(Tensor.dense(name, draw.normal(size=shape).astype(np.float32)))
        for name, shape in layer.shapes.items()
    }
    x = draw.normal(size=(1, 64, HIDDEN)).astype(np.float32)  # enough for every expert
    decoder_layer(ops, Layer(layer, loaded), x, Positions(0, 64), observer=Widths())
    assert seen == {group.name: group.width for group in layer.groups}
