"""The walk over the layers, against a twin that runs the whole model again for each layer."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from quantize.checkpoint import Checkpoint, bundled, open_checkpoint
from quantize.methods import METHODS, HessianFactor, Method, Rounded
from quantize.methods.rtn import rtn
from quantize.plan import Target, assign
from quantize.run.job import group
from runtime.archs import FAMILIES
from runtime.engine import open_engine
from runtime.errors import EdgequantError
from runtime.model import Model
from runtime.quant_types import QUANT_TYPES, QuantType, numpy_of, to_numpy
from runtime.tensor import Tensor
from tests.conftest import config
from tests.quantize.runs import ON_DISK, Walk, hold, same, small_plan, walk
from tests.quantize.test_rounding import Recording, dense_run
from tests.random_checkpoint import random_checkpoint

pytestmark = [pytest.mark.numeric, pytest.mark.slow, pytest.mark.usefixtures("exact_products")]


def twin(
    checkpoint: Checkpoint, ids: np.ndarray, types: dict[str, QuantType], own_prefix: bool
) -> dict[str, Tensor]:
    """GPTQ by the book: the whole model once for every layer, each linear on its own inputs."""
    gptq = METHODS["gptq"]
    original = {name: checkpoint.tensors[name] for name in checkpoint.tensors}
    out = dict(original)

    def put(name: str, run: Recording | None) -> None:
        weight = torch.from_numpy(np.array(original[name].decode()))
        factor = gptq.factor(run.hessian(name), 0.01) if run else None
        rounded = (gptq if run else METHODS["rtn"]).round(weight, types[name], factor)
        packed = types[name].pack(numpy_of(rounded.codes), to_numpy(rounded.params))
        out[name] = Tensor(name, original[name].shape, types[name], packed)

    put("token_embd.weight", None)
    order = [name for name in types if name != "token_embd.weight"]
    layers = dict.fromkeys(name.rpartition(".")[0].rpartition(".")[0] for name in order)
    for layer in layers:
        tensors = out if own_prefix else original
        run = dense_run(Model(checkpoint.arch, dict(tensors)), ids)
        for name in order:
            if name.rpartition(".")[0].rpartition(".")[0] == layer:
                put(name, run)
    return out


def calibration_ids(found: Walk) -> np.ndarray:
    return found.work.load("calibration", "ids")


def weights_only(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if len(tensor.shape) == 2}


@pytest.mark.parametrize("name", ["qwen2-tied", "qwen2-untied", "llama-untied"])
def test_streaming_gives_the_codes_of_the_whole_model_twin(
    name: str, random_models: dict[str, Path], tmp_path: Path
) -> None:
    found = walk(small_plan(random_models[name], "onnx:int4"), tmp_path / "work")
    types = found.assignments[0].types
    expected = twin(found.checkpoint, calibration_ids(found), types, own_prefix=True)
    assert same(weights_only(found.tensors()), weights_only(expected))


def test_targets_that_share_a_pass_see_the_original_prefix(
    random_models: dict[str, Path], tmp_path: Path
) -> None:
    plan = small_plan(random_models["qwen2-untied"], "onnx:int4", "onnx:int8")
    found = walk(plan, tmp_path / "work")
    for target, assignment in enumerate(found.assignments):
        ids = calibration_ids(found)
        expected = twin(found.checkpoint, ids, assignment.types, own_prefix=False)
        assert same(weights_only(found.tensors(target)), weights_only(expected))


def test_targets_that_share_a_pass_run_the_calibration_once(
    random_models: dict[str, Path], tmp_path: Path
) -> None:
    layers = []

    def watch(step: str, done: int, total: int, note: str) -> None:
        if step.startswith("layers"):
            layers.append((step, done))

    plan = small_plan(random_models["qwen2-tied"], "onnx:int4", "onnx:int8", "onnx:fp32")
    walk(plan, tmp_path / "work", watch)
    assert layers == [(f"layers ({name})", at) for name in ("shared", "plain") for at in (1, 2)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["qwen2-tied", "llama-untied"])
def test_every_method_keeps_the_model_close_to_the_original(
    method: str, name: str, random_models: dict[str, Path], tmp_path: Path
) -> None:
    plan = small_plan(random_models[name], "onnx:int8", method=method)
    found = walk(plan, tmp_path / "work")
    ids = np.random.default_rng(0).integers(0, 4096, (1, 32))
    before = open_engine(found.checkpoint.model(), "torch").logits(ids)
    after = open_engine(found.model(), "torch").logits(ids)
    assert np.abs(after - before).max() < 0.05 * np.abs(before).max()


def test_hidden_states_go_to_disk_under_a_limit_and_nothing_changes(
    random_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()

    def watch(stage: str, done: int, total: int, note: str) -> None:
        seen.update(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("hidden.npy"))

    plan = small_plan(random_models["qwen2-untied"], "onnx:int4")
    memory = walk(plan, tmp_path / "memory")
    hold(monkeypatch, ON_DISK)
    disk = walk(plan, tmp_path / "disk", watch)
    assert seen == {"disk/shared/hidden.npy"}
    assert same(memory.tensors(), disk.tensors())


def test_an_uncalibrated_method_reads_no_text(
    random_models: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "empty.txt").write_text("")  # who reads it refuses it
    text = str(tmp_path / "empty.txt")
    plan = small_plan(random_models["qwen2-tied"], "onnx:int4", method="rtn", calibration=text)
    found = walk(plan, tmp_path / "work")
    assert found.digest == ""
    assert not found.work.done("calibration")


def test_an_uncalibrated_method_rounds_with_its_own_code(
    random_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def halved(weight: torch.Tensor, qtype: QuantType, factor: HessianFactor | None) -> Rounded:
        return rtn(weight / 2, qtype, factor)

    monkeypatch.setitem(METHODS, "halved", METHODS["rtn"])  # so that it is forgotten at the end
    Method("halved", "half of every weight", calibrated=False, round=halved)
    model = random_models["qwen2-untied"]
    whole, half = (
        walk(small_plan(model, "onnx:int4", method=method), tmp_path / method).tensors()
        for method in ("rtn", "halved")
    )
    for name, tensor in half.items():
        factor = 0.5 if len(tensor.shape) == 2 else 1.0
        assert np.array_equal(tensor.decode(), factor * whole[name].decode()), name


def test_a_float_target_reads_no_text_and_holds_the_weights_themselves(
    random_models: dict[str, Path], tmp_path: Path
) -> None:
    found = walk(small_plan(random_models["llama-untied"], "onnx:fp32"), tmp_path / "work")
    assert not found.work.done("calibration")
    for name, tensor in found.tensors().items():
        assert np.array_equal(tensor.decode(), found.checkpoint.tensors[name].decode())


def test_text_may_be_sampled_from_the_model_itself(
    random_models: dict[str, Path], tmp_path: Path
) -> None:
    plan = small_plan(random_models["qwen2-tied"], "onnx:int4", calibration="self", rows=2)
    first, again = walk(plan, tmp_path / "a"), walk(plan, tmp_path / "b")
    assert calibration_ids(first).shape == (2, 64)
    assert first.digest == again.digest != ""


def test_three_bits_and_less_calibrate_on_their_own_prefix() -> None:
    arch = FAMILIES["qwen2"].arch(config("qwen2-tied", hidden_size=256, intermediate_size=512))
    labels = ("gguf:Q4_K_M", "onnx:int4", "gguf:Q3_K_M", "gguf:Q2_K", "gguf:F16")
    assignments = tuple(assign(Target.parse(label), arch, ()) for label in labels)
    found = {
        g.name: ([a.target.label for a in g.members], g.calibrated)
        for g in group(assignments, calibrated=True)
    }
    assert found == {
        "shared": (["gguf:Q4_K_M", "onnx:int4"], True),
        "gguf-Q3_K_M": (["gguf:Q3_K_M"], True),
        "gguf-Q2_K": (["gguf:Q2_K"], True),
        "plain": (["gguf:F16"], False),
    }
    assert [g.name for g in group(assignments, calibrated=False)] == ["plain"]


def spoil(folder: Path, name: str, value: float) -> Path:
    """A copy of a random untied model with one tensor filled with a value."""
    random_checkpoint(folder, config("qwen2-untied"), bundled())
    for shard in folder.glob("*.safetensors"):
        tensors = load_file(shard)
        if name in tensors:
            tensors[name] = torch.full_like(tensors[name], value)
            save_file(tensors, shard)
            return folder
    raise KeyError(name)


SILENT = {
    "model.layers.1.input_layernorm.weight": "blk.1.attn_q/attn_k/attn_v",
    "model.layers.0.mlp.up_proj.weight": "blk.0.ffn_down",
    "model.norm.weight": "output",
}
"""Tensors that, when they are all zero, leave a stage without any input."""


@pytest.mark.parametrize("name", SILENT)
def test_inputs_that_are_all_zero_name_the_stage(name: str, tmp_path: Path) -> None:
    plan = small_plan(spoil(tmp_path / "model", name, 0), "onnx:int4")
    with pytest.raises(EdgequantError, match=f"^{SILENT[name]}: the Hessian stays singular"):
        walk(plan, tmp_path / "work")


@pytest.mark.parametrize("name", SILENT)
def test_an_allowed_fallback_is_told_with_its_target(name: str, tmp_path: Path) -> None:
    folder = spoil(tmp_path / "model", name, 0)
    plan = small_plan(folder, "onnx:int4", "onnx:int8", allow_fallback=True)
    told = [note for note in walk(plan, tmp_path / "work").notes() if "singular" in note]
    assert told == [
        f"{label} {SILENT[name]}: singular Hessian, rounded to nearest (--allow-fallback)"
        for label in ("onnx:int4", "onnx:int8")
    ]


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("model.norm.weight", "output_norm.weight"),
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("lm_head.weight", "output.weight"),
        ("model.layers.1.self_attn.k_proj.bias", "blk.1.attn_k.bias"),
    ],
)
def test_nan_is_found_wherever_it_hides(name: str, ours: str, tmp_path: Path) -> None:
    plan = small_plan(spoil(tmp_path / "model", name, float("nan")), "onnx:int4", method="rtn")
    with pytest.raises(EdgequantError, match=f"^{ours} holds .* NaN or infinite values"):
        walk(plan, tmp_path / "work")


def test_one_dimensional_tensors_are_kept_as_float32(
    random_models: dict[str, Path], tmp_path: Path
) -> None:
    found = walk(small_plan(random_models["qwen2-untied"], "onnx:int4"), tmp_path / "work")
    for name, tensor in found.tensors().items():
        if len(tensor.shape) == 1:
            assert tensor.qtype is QUANT_TYPES["F32"]
            assert np.array_equal(tensor.decode(), found.checkpoint.tensors[name].decode())
    assert open_checkpoint(random_models["qwen2-untied"]).tensors.keys() == found.tensors().keys()
