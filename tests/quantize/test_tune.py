"""After-tuning: gradients against the whole model at once, and what reaches the stored bytes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quantize.calibration.rows import Rows
from quantize.checkpoint import bundled, open_checkpoint
from quantize.plan import EFFORTS
from quantize.run import pipeline
from quantize.run.resume import Work
from quantize.run.way import WAYS
from quantize.tuning import tune
from quantize.tuning.tune import State, TuningTask, adam, keep_best, open_student, tune_targets
from quantize.tuning.tuning_model import Student, kl_gradient, open_part, run_teacher, zeros
from runtime.archs import Arch
from runtime.backends.torch import TorchOps
from runtime.forward import forward, layers
from runtime.gguf_file import open_gguf
from runtime.quant_types import QUANT_TYPES, QuantType, numpy_of, to_numpy
from runtime.tensor import Tensor
from tests.quantize.runs import ON_DISK, Walk, assigned, hold, same, small_plan, walk

OPS = TorchOps()
WHAT_MOVES = [qtype for qtype in QUANT_TYPES.values() if qtype.linear]


def room(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape, np.float32)


def small_deltas(student: Student) -> dict[str, torch.Tensor]:
    """Random relative changes of about 2%."""
    draw = torch.Generator().manual_seed(0)
    return {n: 0.02 * torch.randn(d.shape, generator=draw) for n, d in zeros(student).items()}


def rounded(folder: Path, model: Path, **changes: Any) -> Walk:
    """A random model at 4 bits."""
    return walk(small_plan(model, "onnx:int4", **({"rows": 16} | changes)), folder)


class DoubleOps(TorchOps):
    """Torch in float64: against sums of float32, its own rounding does not show."""

    def load(self, tensor: Tensor) -> torch.Tensor:
        return super().load(tensor).double()


def logits_in_float64(arch: Arch, weights: dict[str, torch.Tensor], ids: np.ndarray) -> Any:
    """Logits (rows, T, V) of all tensors at once, differentiable in the weights."""
    return forward(DoubleOps(), arch, weights, layers(arch, weights), ids)


def moved_weights(student: Student, deltas: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every tensor of the target after changes in float64, as float64."""
    parts = [p for i in range(student.arch.layers) for p in student.layer(i)] + [student.norm()]
    weights = {part.tensor.name: part.value(deltas).double() for part in parts}
    fixed = (student.head.tensor, student.read("token_embd.weight"))
    return weights | {tensor.name: DoubleOps().load(tensor) for tensor in fixed}


@pytest.mark.numeric
@pytest.mark.parametrize(
    "name", ["qwen2-tied", pytest.param("llama-untied", marks=pytest.mark.slow)]
)
def test_gradient_by_layers_is_that_of_the_whole_model(
    name: str, random_models: dict[str, Path], tmp_path: Path
) -> None:
    found = rounded(tmp_path / "work", random_models[name], effort="low")
    ids = found.work.load("calibration", "ids")
    student = open_student(found.job, found.assignments[0], OPS)
    teacher = run_teacher(found.checkpoint, Rows(ids), OPS, room)
    deltas = small_deltas(student)
    rows = np.array([3, 1])
    loss, gradient = kl_gradient(student, deltas, Rows(ids), teacher, rows)

    # in float64: the KL is 1e-4 of the terms that cancel in it, and float32 loses 1e-3 of it
    leaves = {n: d.double().requires_grad_() for n, d in deltas.items()}
    original = {n: DoubleOps().load(tensor) for n, tensor in found.checkpoint.tensors.items()}
    right, ours = (
        torch.log_softmax(logits_in_float64(student.arch, weights, ids[rows]), -1)
        for weights in (original, moved_weights(student, leaves))
    )
    whole = (right.exp() * (right - ours)).sum(-1).mean()
    expected = dict(zip(leaves, torch.autograd.grad(whole, list(leaves.values())), strict=True))
    assert loss == pytest.approx(whole.item(), rel=1e-4)
    assert gradient.keys() == deltas.keys()
    for key, by in expected.items():
        assert float((gradient[key] - by).norm()) <= 1e-3 * float(by.norm()), key


def packed_tensor(qtype: QuantType) -> Tensor:
    """Three random rows of two blocks."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 2 * qtype.size, generator=draw)
    codes, params = qtype.quantize(weight)
    packed = qtype.pack(numpy_of(codes), to_numpy(params))
    return Tensor("blk.0.attn_q.weight", (3, 2 * qtype.size), qtype, packed)


@pytest.mark.parametrize("qtype", WHAT_MOVES, ids=lambda qtype: qtype.name)
def test_packed_bytes_hold_the_moved_scales_and_the_same_codes(qtype: QuantType) -> None:
    tensor = packed_tensor(qtype)
    part = open_part(tensor, OPS.device)
    draw = torch.Generator().manual_seed(1)
    deltas = {
        name: 0.1 * torch.randn(part.params[key].shape, generator=draw)
        for name, key in part.free.items()
    }
    before, params_before = qtype.unpack(tensor.data)
    after, params = qtype.unpack(part.packed(deltas))
    assert np.array_equal(before, after)
    for key, values in params.items():
        if key in qtype.linear:
            wanted = params_before[key] * (1 + deltas[f"{tensor.name}:{key}"].numpy())
            assert np.allclose(values, wanted, rtol=2e-3)
            assert not np.array_equal(values, params_before[key])
        else:
            assert np.array_equal(values, params_before[key])
    stored_values = qtype.decode(part.packed(deltas))
    assert np.array_equal(stored_values, part.value(deltas, as_stored=True).numpy())


@pytest.mark.parametrize("qtype", WHAT_MOVES, ids=lambda qtype: qtype.name)
def test_packed_bytes_are_the_same_when_nothing_moves(qtype: QuantType) -> None:
    tensor = packed_tensor(qtype)
    part = open_part(tensor, OPS.device)
    nothing = {name: torch.zeros_like(part.params[key]) for name, key in part.free.items()}
    assert np.array_equal(part.packed(nothing), tensor.data)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("blk.0.attn_norm.weight", [0.0, 2.2, -4.4, 6.6]),
        ("blk.0.attn_q.bias", [0.3, 2.3, -3.7, 6.3]),
    ],
)
def test_norms_move_by_their_values_and_biases_by_their_mean_size(
    name: str, expected: list[float]
) -> None:
    tensor = Tensor.dense(name, np.array([0, 2, -4, 6], np.float32))
    part = open_part(tensor, OPS.device)
    packed = part.packed({name: torch.full((4,), 0.1)})
    assert np.allclose(QUANT_TYPES["F32"].decode(packed)[0], expected, atol=1e-6)


def test_a_float_matrix_does_not_move() -> None:
    tensor = Tensor.dense("blk.0.attn_q.weight", np.ones((2, 4), np.float32), "F16")
    part = open_part(tensor, OPS.device)
    assert part.free == {}
    assert np.array_equal(part.packed({}), tensor.data)


def task(domains: list[str]) -> TuningTask:
    """Only what splits windows."""
    ids = np.zeros((len(domains), 4), np.int32)
    nothing: Any = None
    return TuningTask(nothing, nothing, Rows(ids), np.array(domains), room, seed=0)


def test_one_window_of_eight_of_each_domain_is_held_back_and_at_least_one() -> None:
    found = task(["prose"] * 17 + ["code"] * 3 + ["math"])
    assert sorted(found.held_back) == [15, 16, 19, 20]
    assert set(found.training) == set(range(21)) - {15, 16, 19, 20}


def test_batches_see_every_training_window_before_any_again() -> None:
    found = task(["prose"] * 8)
    seen = np.concatenate([found.batch(step) for step in range(7)])
    assert sorted(seen[:7]) == sorted(seen[7:]) == list(range(7))


def test_a_state_in_which_every_domain_fell_is_better_than_a_lower_mean() -> None:
    start = {"code": 1.0, "prose": 1.0}
    state = State(0, {}, {}, {}, {}, start, start)
    uneven = keep_best(state, {"code": 1.1, "prose": 0.1})
    assert uneven.worse == ["code"]
    even = keep_best(uneven, {"code": 0.9, "prose": 0.9})
    assert even.worse == []
    assert keep_best(even, {"code": 1.1, "prose": 0.1}) is even
    assert keep_best(even, {"code": float("nan"), "prose": 0.1}) is even


def test_adam_goes_against_the_gradient_by_the_step_size_at_first() -> None:
    one = {"norm": torch.tensor([0.0, 0.0, 0.0])}
    state = State(0, one, one, one, one, {}, {})
    after = adam(state, {"norm": torch.tensor([2.0, -1e-6, 0.0])}, 0.01)
    assert torch.allclose(after.deltas["norm"], torch.tensor([-0.01, 0.01, 0.0]))
    assert after.step == 1


class Stop(Exception):
    """Stands for a crash inside the process."""


def tuned(found: Walk, steps: int = 16, stop_at: int | None = None) -> dict[str, Any]:
    """Tune what a walk left, with so many steps; what the stage recorded."""
    model = found.checkpoint.folder
    plan = small_plan(model, found.assignments[0].target.label, rows=16, effort="high")

    def progress(stage: str, done: int, total: int, note: str) -> None:
        if stage.startswith("tuning") and done == stop_at:
            raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EFFORTS, "high", replace(EFFORTS["high"], steps=steps))
        job = assigned(plan, found.work.folder, progress)
        tune_targets(replace(job, store=found.work))
    return found.work.tuned(found.assignments[0].target).facts


@pytest.mark.slow
def test_tuning_lowers_the_kl_of_the_stored_tensors_on_windows_held_back(tmp_path: Path) -> None:
    # enough text that the KL of every domain falls by more than rounding moves it
    found = rounded(tmp_path / "work", bundled(), effort="low", length=128, rows=48)
    before = found.tensors()
    stage = tuned(found)
    assert stage["accepted"]
    after = found.tensors()
    changed = {name for name in before if not np.array_equal(before[name].data, after[name].data)}
    assert {"output_norm.weight", "blk.0.attn_q.bias", "blk.1.ffn_down.weight"} <= changed
    assert "token_embd.weight" not in changed
    ids, domains = (found.work.load("calibration", key) for key in ("ids", "domains"))
    student = open_student(found.job, found.assignments[0], OPS)
    whole = TuningTask(
        student, run_teacher(found.checkpoint, Rows(ids), OPS, room), Rows(ids), domains, room, 0
    )
    again = whole.judge(zeros(student))
    assert again == pytest.approx(stage["kl"]["after"], rel=1e-3)
    assert all(again[domain] < was for domain, was in stage["kl"]["before"].items())


@pytest.mark.slow
def test_refused_tuning_leaves_the_bytes_as_they_were_and_says_why(
    random_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_models["qwen2-tied"]
    found = rounded(tmp_path / "work", model, effort="low")
    before = found.tensors()
    monkeypatch.setattr(tune, "STEP", 100.0)
    stage = tuned(found, steps=8)
    assert not stage["accepted"]
    assert same(before, found.tensors())
    assert found.notes() == [
        f"onnx:int4 tuning was dropped: KL on {', '.join(stage['kl']['before'])} did not fall"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [8, 16])
def test_a_killed_tuning_goes_on_and_gives_the_same_bytes(
    stop_at: int, random_models: dict[str, Path], tmp_path: Path
) -> None:
    model = random_models["qwen2-untied"]
    whole = rounded(tmp_path / "whole", model, effort="low")
    expected = tuned(whole)
    killed = rounded(tmp_path / "killed", model, effort="low")
    with pytest.raises(Stop):
        tuned(killed, stop_at=stop_at)
    assert not killed.work.tuned(killed.assignments[0].target).done
    assert tuned(killed) == expected
    assert same(whole.tensors(), killed.tensors())


@pytest.mark.slow
def test_too_few_windows_leave_tuning_out_and_say_so(
    random_models: dict[str, Path], tmp_path: Path
) -> None:
    plan = small_plan(random_models["qwen2-tied"], "onnx:int4", rows=1, effort="low")
    found = walk(plan, tmp_path / "work")
    assert not tuned(found)["accepted"]
    assert found.notes() == [
        "onnx:int4 tuning was left out: 1 windows leave none to train on; give more rows"
    ]


@pytest.mark.slow
def test_a_run_at_high_effort_writes_a_tuned_norm_or_says_that_tuning_was_dropped(
    random_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EFFORTS, "high", replace(EFFORTS["high"], steps=8))
    model, flags = random_models["llama-untied"], {"rows": 16, "check": False}
    plan = small_plan(model, "gguf:Q4_0", effort="high", output=str(tmp_path), **flags)
    said: list[str] = []
    pipeline.run(plan, say=said.append)
    (file,) = tmp_path.glob("*.gguf")
    norm = open_gguf(file).tensors["output_norm.weight"].decode()
    original = open_checkpoint(model).tensors["output_norm.weight"].decode()
    dropped = any("tuning was dropped" in line for line in said)
    assert np.array_equal(norm, original) == dropped


@pytest.mark.slow
def test_states_of_gradients_and_tuning_go_to_disk_under_a_limit_and_nothing_changes(
    random_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EFFORTS, "high", replace(EFFORTS["high"], steps=2))
    written, rooms = [], {}
    real = Work.allocate

    def watched(work: Work, name: str, shape: tuple[int, ...], max_ram: float) -> np.ndarray:
        rooms[name] = real(work, name, shape, max_ram)
        return rooms[name]

    monkeypatch.setattr(Work, "allocate", watched)
    for way, kind in ((WAYS[0], np.ndarray), (ON_DISK, np.memmap)):
        hold(monkeypatch, way)
        flags = {"rows": 16, "check": False, "overwrite": True}
        plan = small_plan(random_models["qwen2-tied"], "gguf:Q4_0", effort="high", **flags)
        pipeline.run(replace(plan, output=tmp_path))
        written.append(next(tmp_path.glob("*.gguf")).read_bytes())
        scratch = (f"scratch/{name}-states" for name in ("gradient", "teacher", "student"))
        expected = dict.fromkeys((*scratch, "shared/hidden", "shared/exact"), kind)
        assert {name: type(room) for name, room in rooms.items()} == expected
        rooms.clear()
    assert written[0] == written[1]
