"""A weight whose type is the source's keeps its bytes, whatever would round or move it."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import edgequant
from quantize.calibration.stream import Weights
from quantize.checkpoint import bundled, open_checkpoint
from quantize.methods import METHODS, HessianFactor
from quantize.rewrites import REWRITES
from quantize.run.copied import Kept, copied_rows
from quantize.run.data_free import round_tensor
from quantize.run.recipe import Recipe
from quantize.run.rewriting import rewrite_layer
from quantize.run.rounding import quantize_layer
from quantize.tuning.tuning_model import open_part
from runtime.containers import recognise
from runtime.errors import CorruptFileError
from runtime.quant_types import QUANT_TYPES, QuantType, numpy_of, to_numpy
from runtime.quant_types.read_only import ReadOnly
from runtime.tensor import Tensor
from tests.quantize.layers import hessians_of, layer_of

CPU = torch.device("cpu")
WRITTEN = [
    q
    for q in QUANT_TYPES.values()
    if not isinstance(q, ReadOnly) and not q.is_float and not q.ordered
]


def packed(qtype: QuantType, weight: np.ndarray, name: str = "blk.0.attn_q.weight") -> Tensor:
    """A weight (rows, cols) as a file has it."""
    codes, params = qtype.quantize(torch.from_numpy(weight))
    rows = qtype.pack(numpy_of(codes), to_numpy(params))
    return Tensor(name, weight.shape, qtype, rows)


def twice_rounded(qtype: QuantType) -> Tensor:
    """Blocks that came out of one search, of another importance than a second one would have."""
    draw = np.random.default_rng(0)
    weight = draw.normal(size=(16, 4 * qtype.size)).astype(np.float32)
    importance = torch.from_numpy(draw.random(weight.shape[1], np.float32) ** 4)
    codes, params = qtype.quantize(torch.from_numpy(weight), importance)
    rows = qtype.pack(numpy_of(codes), to_numpy(params))
    return Tensor("blk.0.attn_q.weight", weight.shape, qtype, rows)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("qtype", WRITTEN, ids=lambda qtype: qtype.name)
def test_every_block_of_the_same_type_is_kept(qtype: QuantType, name: str) -> None:
    tensor = twice_rounded(qtype)
    factor = HessianFactor(torch.linspace(0.1, 9, tensor.cols))
    rows, loss = round_tensor(tensor, qtype, Recipe(METHODS[name]), factor, CPU)
    assert np.array_equal(rows, tensor.data)
    assert loss == 0


@pytest.mark.parametrize("importance", [False, True])
@pytest.mark.parametrize("qtype", WRITTEN, ids=lambda qtype: qtype.name)
def test_a_packed_weight_goes_into_another_type_as_its_values_do(
    qtype: QuantType, importance: bool
) -> None:
    tensor, target = twice_rounded(qtype), QUANT_TYPES["Q4_0" if qtype.name != "Q4_0" else "Q5_0"]
    dense = Tensor.dense(tensor.name, tensor.decode())
    factor = HessianFactor(torch.linspace(0.1, 9, tensor.cols)) if importance else None
    recipe = Recipe(METHODS["rtn"])
    found, meant = (round_tensor(t, target, recipe, factor, CPU) for t in (tensor, dense))
    assert np.array_equal(found[0], meant[0])
    assert found[1] == pytest.approx(meant[1])


def test_a_second_rounding_would_change_blocks() -> None:
    tensor = twice_rounded(QUANT_TYPES["Q3_K"])
    again = packed(tensor.qtype, tensor.decode())
    assert not np.array_equal(again.data, tensor.data)


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_floats_are_rounded_as_always_which_is_exact(name: str) -> None:
    weight = np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32)
    tensor = Tensor.dense("blk.0.attn_q.weight", weight, name)
    assert copied_rows(tensor, tensor.qtype) is None
    rows, _ = round_tensor(tensor, tensor.qtype, Recipe(METHODS["rtn"]), None, CPU)
    assert np.array_equal(rows, tensor.data)


def test_blocks_that_decode_to_infinity_are_refused() -> None:
    tensor = packed(QUANT_TYPES["Q8_0"], np.ones((2, 32), np.float32))
    data = tensor.data.copy()
    data[1, :2] = np.array([np.inf], np.float16).view(np.uint8)
    broken = Tensor(tensor.name, tensor.shape, tensor.qtype, data)
    with pytest.raises(CorruptFileError, match=r"attn_q\.weight holds 32 NaN or infinite values"):
        copied_rows(broken, broken.qtype)


class Case:
    """A layer, its Hessians, and one linear that has its type already."""

    def __init__(self, folder: Path, linear: str) -> None:
        checkpoint = open_checkpoint(folder)
        layer = layer_of(checkpoint)
        self.spec, self.weights = layer.spec, dict(layer.weights)
        self.types = dict.fromkeys(self.spec.linears, QUANT_TYPES["Q4_0"])
        weight = self.weights[f"{linear}.weight"].numpy()
        self.kept = {linear: packed(self.types[linear], weight, f"blk.0.{linear}.weight")}
        self.weights[f"{linear}.weight"] = torch.from_numpy(self.kept[linear].decode())
        hidden = np.random.default_rng(0).normal(size=(2, 64, checkpoint.arch.hidden))
        hidden[..., 3] *= 100  # a channel that scales are made for
        self.hessians = hessians_of(layer, hidden.astype(np.float32))

    def rewritten(self, recipe: Recipe, kept: dict[str, Tensor]) -> Weights:
        found = rewrite_layer(
            self.spec, self.weights, self.types, self.hessians, recipe, "blk.0", kept
        )
        return found[0]


RECIPES = [
    Recipe(METHODS["awq"]),
    Recipe(METHODS["gptq"], rewrites=tuple(REWRITES), descent_iterations=1),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=["awq", "gptq"])
def test_no_scale_goes_into_a_copied_weight_or_out_of_one(
    recipe: Recipe, random_models: dict[str, Path]
) -> None:
    case = Case(random_models["qwen2-tied"], "ffn_up")
    touched = case.rewritten(recipe, {})
    assert not torch.equal(touched["ffn_up.weight"], case.weights["ffn_up.weight"])
    found = case.rewritten(recipe, case.kept)
    for name in ("ffn_norm", "ffn_gate", "ffn_up", "ffn_down"):
        assert torch.equal(found[f"{name}.weight"], case.weights[f"{name}.weight"])
    assert not torch.equal(found["attn_norm.weight"], case.weights["attn_norm.weight"])


@pytest.mark.parametrize("recipe", RECIPES, ids=["awq", "gptq"])
def test_the_rest_of_a_layer_is_rounded_beside_a_copied_weight(
    recipe: Recipe, random_models: dict[str, Path]
) -> None:
    case = Case(random_models["qwen2-tied"], "attn_k")
    args = (case.weights, case.spec.groups, case.types, case.hessians, recipe)
    found, without = quantize_layer(*args, kept=case.kept), quantize_layer(*args)
    assert np.array_equal(found.packed["attn_k.weight"], case.kept["attn_k"].data)
    assert np.array_equal(found.values["attn_k.weight"], case.kept["attn_k"].decode())
    assert found.losses["attn_k"] == 0
    for name, rows in without.packed.items():
        if name != "attn_k.weight":
            assert np.array_equal(found.packed[name], rows)


def test_nothing_of_a_copied_weight_is_tuned() -> None:
    tensor = twice_rounded(QUANT_TYPES["Q4_K"])
    part = open_part(tensor, CPU, fixed=True)
    assert part.free == {}
    assert np.array_equal(part.packed({}), tensor.data)


@pytest.mark.slow
def test_weights_on_a_grid_are_taken_as_they_are(tmp_path: Path) -> None:
    """As quantization-aware training leaves them: whole multiples of a step, in bf16."""
    source = tmp_path / "source"
    on_lattice(source, QUANT_TYPES["Q4_0"])
    forecast = edgequant.plan(source, to=["gguf:Q4_0", "onnx:int4"], method="gptq", rows=2)
    assert any("lie on a grid of Q4_0 (32 a block): exact at 4.5 bits" in n for n in forecast.notes)
    made = edgequant.quantize(
        source, to=["gguf:Q4_0", "onnx:int4"], output=tmp_path / "x", rows=2, check=False
    )
    before = open_checkpoint(source).tensors
    for artifact in made.artifacts:
        after = recognise(artifact.path).open(artifact.path).tensors
        for name, tensor in before.items():
            if name.startswith("blk.") and tensor.is_matrix:
                again = Tensor.dense(name, after[name].decode(), "BF16")
                np.testing.assert_array_equal(again.decode(), tensor.decode())


@pytest.mark.slow
def test_plan_tells_the_grid_of_most_weights_and_the_share_of_the_others(tmp_path: Path) -> None:
    source, whole, half = tmp_path / "source", "blk.0.attn_v.weight", "blk.2.ffn_up.weight"
    on_lattice(source, QUANT_TYPES["Q4_0"], {whole: 0.0, half: 0.5})
    tensors = open_checkpoint(source).tensors
    linears = [name for name, t in tensors.items() if name.startswith("blk.") and t.is_matrix]
    (note,) = Kept(tensors).notes()
    assert note.startswith(
        f"{len(linears) - 2} of {len(linears)} weights of the layers lie on a grid of Q4_0 (32 a "
        f"block): exact at 4.5 bits a weight; not so {whole} (0% of its blocks), {half} ("
    )
    part = re.search(r"\((\d+)% of its blocks\)$", note)
    assert part and 45 <= int(part[1]) <= 55
    assert Kept(open_checkpoint(None).tensors).notes() == ()


def on_lattice(folder: Path, qtype: QuantType, parts: dict[str, float] | None = None) -> None:
    """The bundled checkpoint with every linear of its layers rounded to a type, stored in bf16.

    Of those in `parts` just the first rows, as many as it says.
    """
    shutil.copytree(bundled(), folder)
    checkpoint = open_checkpoint(folder)
    names = checkpoint.arch.hf_names()
    arrays = load_file(folder / "model.safetensors")
    for name, tensor in checkpoint.tensors.items():
        if name.startswith("blk.") and tensor.is_matrix:
            codes, params = qtype.quantize(tensor.decode())
            values = np.array(qtype.value(codes, *qtype.grid(params)))
            rest = int(tensor.rows * (parts or {}).get(name, 1.0))
            values[rest:] = tensor.decode()[rest:]
            arrays[names[name]] = torch.from_numpy(values.copy()).bfloat16()
    save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
