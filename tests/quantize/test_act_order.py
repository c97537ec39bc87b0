"""Act-order: columns rounded from the most important to the least, and stored with their order."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import edgequant
from export import CONTAINERS
from quantize.checkpoint import bundled, open_checkpoint
from quantize.methods import METHODS
from quantize.plan import Plan
from quantize.run import pipeline
from quantize.run.act_order import absorbed_for
from quantize.run.convert import convert
from quantize.run.pieces import quantize_weight
from quantize.run.recipe import Recipe
from quantize.run.rounding import quantize_layer
from quantize.tuning.tuning_model import open_part
from runtime.containers import recognise
from runtime.engine import open_engine
from runtime.errors import InputError, UnsupportedError
from runtime.quant_types import QUANT_TYPES
from runtime.tensor import Tensor
from tests.conftest import config
from tests.quantize.layers import embedded, hessians_of, layer_of
from tests.quantized_made import Tensors, gptq, quantized_checkpoint, random_codes
from tests.random_checkpoint import random_checkpoint

KIND = "INT4_32_SYM_F16_ACT"
PLAIN = "INT4_32_SYM_F16"
IDS = np.arange(48)[None]


def test_a_layer_in_act_order_is_the_layer_with_sorted_columns() -> None:
    layer = layer_of(open_checkpoint(None), 1)
    hessians = hessians_of(layer, embedded(open_checkpoint(None), IDS))
    recipe = Recipe(METHODS["gptq"], descent_iterations=1)
    types = dict.fromkeys(layer.spec.linears, QUANT_TYPES[KIND])
    types["attn_v"] = QUANT_TYPES[PLAIN]
    found = quantize_layer(layer.weights, layer.spec.groups, types, hessians, recipe)
    for group in layer.spec.groups:
        hessian = hessians[group.name]
        falling = sorted(range(group.width), key=lambda col: -float(hessian[col, col]))
        for linear in group.linears:
            weight = layer.weights[f"{linear}.weight"]
            order = list(range(group.width)) if linear == "attn_v" else falling
            factor, _ = recipe.factor(hessian[order][:, order], "")
            rows, value = quantize_weight(weight[:, order], QUANT_TYPES[PLAIN], recipe, factor)
            np.testing.assert_array_equal(found.packed[f"{linear}.weight"], rows)
            assert torch.equal(found.values[f"{linear}.weight"][:, order], value)
            if linear == "attn_v":
                assert f"{linear}.order" not in found.packed
            else:
                np.testing.assert_array_equal(found.packed[f"{linear}.order"], order)


def test_a_tensor_has_its_columns_in_their_places() -> None:
    rng = np.random.default_rng(3)
    order = rng.permutation(64).astype(np.int32)
    qtype = QUANT_TYPES[KIND]
    codes, params = qtype.quantize(rng.standard_normal((8, 64)).astype(np.float32))
    tensor = Tensor("blk.0.x.weight", (8, 64), qtype, qtype.pack(codes, params), order=order)
    sorted_values = qtype.value(codes, *qtype.grid(params))
    for at, col in enumerate(order):
        np.testing.assert_array_equal(tensor.decode()[:, col], sorted_values[:, at])
    np.testing.assert_array_equal(tensor.decode(3, 5), tensor.decode()[3:5])
    np.testing.assert_array_equal(tensor.unpacked(np.array([6, 1])), tensor.decode()[[6, 1]])
    part = open_part(tensor, torch.device("cpu"))
    deltas = {name: torch.zeros_like(part.params[key]) for name, key in part.free.items()}
    np.testing.assert_array_equal(part.value(deltas).numpy(), tensor.decode())
    np.testing.assert_array_equal(part.packed(deltas), tensor.data)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (
            {"to": ["gptq:int4-act"], "method": "rtn"},
            "blk.0.attn_q.weight cannot be INT4_128_SYM_F16_ACT with --method rtn",
        ),
        (
            {"to": ["onnx:int4"], "rules": ["token_embd=INT4_32_ACT"]},
            "token_embd.weight cannot be INT4_32_ACT: act-order is for the linears of decoder",
        ),
        (
            {"to": ["onnx:auto"], "rules": ["output|embd=INT4_32_ACT"], "target_bpw": 6},
            "token_embd.weight cannot be INT4_32_ACT: act-order is for the linears of decoder",
        ),
    ],
)
def test_what_has_no_order_is_refused_before_work(
    flags: dict[str, Any], told: str, tmp_path: Path
) -> None:
    plan = Plan.from_flags(None, flags | {"output": tmp_path / "out"})
    with pytest.raises(InputError, match=told):
        pipeline.run(plan)
    assert not (tmp_path / "out").exists()


QUICK: dict[str, Any] = {"rows": 2, "length": 64, "effort": "low"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model as a GPTQ folder in act-order."""
    folder = tmp_path_factory.mktemp("made")
    found = edgequant.quantize(to="gptq:int4-act", output=folder, check=False, **QUICK)
    forecast = edgequant.plan(to="gptq:int4-act", output=folder, **QUICK)
    assert [one.bytes for one in forecast.targets] == [one.bytes for one in found.artifacts]
    return found.artifacts[0].path


@pytest.mark.slow
def test_a_folder_says_so_and_linears_of_one_input_agree(made: Path) -> None:
    for name in ("config.json", "quantize_config.json"):
        facts = json.loads((made / name).read_text())
        assert facts.get("quantization_config", facts)["desc_act"] is True
    arrays = load_file(made / "model.safetensors")
    for layer in range(6):
        for group in (("self_attn", "qkv"), ("mlp", ("gate", "up"))):
            orders = [
                arrays[f"model.layers.{layer}.{group[0]}.{part}_proj.g_idx"] for part in group[1]
            ]
            assert all(np.array_equal(order, orders[0]) for order in orders)
            assert not np.array_equal(orders[0], np.sort(orders[0]))
            assert (np.bincount(orders[0]) == 128).all()


@pytest.mark.slow
def test_what_is_read_again_is_what_was_rounded(made: Path, exact_products: None) -> None:
    tensors = recognise(made).open(made).tensors
    found = tensors["blk.1.ffn_down.weight"]
    assert found.qtype.name == "INT4_128_SYM_F16_ACT" and found.order is not None
    model = open_checkpoint(made).model()
    expected = open_engine(model, "numpy").logits(IDS)
    native = open_engine(model, "native", kv="f32")
    assert native.weights["blk.1.ffn_down.weight"].type_name == "INT4_128_SYM"  # packed
    for engine in (open_engine(model, "torch"), native):
        assert np.abs(engine.logits(IDS) - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize("container", ["onnx", "onnx-f16", "gptq"])
def test_its_codes_go_into_other_containers(made: Path, container: str, tmp_path: Path) -> None:
    """In ONNX a Gather puts the channels of an input in order."""
    found = convert(made, container, tmp_path, exact=True)
    assert all(weight.exact and weight.difference == 0 for weight in found.weights)
    assert "int4" in found.path.name  # not a preset of floats, though its types have no order
    kinds = {weight.type for weight in found.weights if weight.name.startswith("blk.")}
    assert kinds == {"INT4_128_SYM_ACT" if container == "onnx" else "INT4_128_SYM_F16_ACT"}
    expected = open_engine(open_checkpoint(made).model(), "numpy").logits(IDS)
    if container == "gptq":
        logits = open_engine(open_checkpoint(found.path).model(), "numpy").logits(IDS)
    else:
        logits = open_engine(found.path, "onnxruntime", accuracy_level=0).logits(IDS)
    assert np.abs(logits - expected).max() < 1e-3 * np.abs(expected).max()


@pytest.mark.slow
def test_gguf_and_awq_have_no_act_order(made: Path, tmp_path: Path) -> None:
    """What reads channels inside of an MLP keeps its codes: the rows before it take its order."""
    for container in ("gguf", "awq"):
        with pytest.raises(UnsupportedError, match=r"INT4_128_SYM_F16_ACT.*leave out --exact"):
            convert(made, container, tmp_path / "refused", exact=True)
        assert not (tmp_path / "refused").exists()
    said: list[str] = []
    found = convert(made, "gguf", tmp_path / "made", say=said.append)
    assert any(line.startswith("act-order of 6 weights is taken up by the rows") for line in said)
    down = [w for w in found.weights if "ffn_down" in w.name]
    assert [(w.type, w.exact) for w in down] == [("Q4_0", True)] * 6
    others = [w for w in found.weights if w.name.startswith("blk.") and w not in down]
    assert {w.type for w in others} == {"Q8_0"}
    assert max(w.difference for w in found.weights) < 0.01
    expected = open_engine(open_checkpoint(made).model(), "numpy").logits(IDS)
    logits = open_engine(recognise(found.path).open(found.path), "numpy").logits(IDS)
    assert np.abs(logits - expected).max() < 0.02 * np.abs(expected).max()  # rounding to 8 bits


@pytest.mark.parametrize("family", ["qwen2-tied", "llama-untied"])  # the second has biases there
def test_an_absorbed_order_changes_no_output(family: str, tmp_path: Path) -> None:
    def quantized(module: str, weight: torch.Tensor) -> tuple[Tensors, np.ndarray]:
        rows, cols = weight.shape
        made = random_codes((rows, cols), 4, 32, seed=zlib.crc32(module.encode()), shuffled=True)
        return gptq(made, 4), made.values()

    source = tmp_path / "source"
    random_checkpoint(source, config(family), bundled())
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True, "desc_act": True}
    folder, _ = quantized_checkpoint(tmp_path / "made", source, settings, quantized)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.tensors.qtype("blk.0.ffn_down.weight").ordered
    absorbing = absorbed_for(checkpoint, [CONTAINERS["gguf"], CONTAINERS["gptq"]])
    assert not absorbing.tensors.qtype("blk.1.ffn_down.weight").ordered
    assert absorbing.tensors.qtype("blk.1.attn_q.weight").ordered
    expected, logits = (
        open_engine(one.model(), "numpy").logits(IDS) for one in (checkpoint, absorbing)
    )
    assert np.abs(logits - expected).max() < 1e-5 * np.abs(expected).max()
    assert absorbed_for(checkpoint, [CONTAINERS["gptq"]]) is checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("effort", ["medium", "high"])
def test_every_effort_writes_what_it_measured(effort: str, tmp_path: Path) -> None:
    settings = QUICK | {"effort": effort, "eval_rows": 2, "eval_length": 64}
    rules = ["attn_v=INT4_64_SYM_F16", "ffn_down=INT8_32_SYM_F16_ACT"]
    made = edgequant.quantize(to="gptq:int4-act", rules=rules, output=tmp_path, **settings)
    assert made.report
    (measured,) = made.report.results
    plain = edgequant.quantize(to="gptq:int4", output=tmp_path / "plain", **settings)
    assert plain.report
    # a wrong order gives a KL of several nats
    assert measured.metrics.kl < 2 * plain.report.results[0].metrics.kl
