"""--max-ram: the way that fits is taken, it changes no byte, and what fits in no way is refused."""

import contextlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.memory import MODELS, RUNS
from quantize.calibration import streamed
from quantize.calibration.streamed import StreamedLinear, StreamingOps, slices
from quantize.methods.base import output_error
from quantize.methods.gptq import factor
from quantize.plan import Plan, Target, assign
from quantize.plan.values import parse_gib
from quantize.run import pipeline
from quantize.run.cost import BASE_BYTES, Cost
from quantize.run.disk_usage import run_cost
from quantize.run.job import Job
from quantize.run.limited import SLACK, fitting, limited, usual
from quantize.run.pieces import factored_error
from quantize.run.text import text_cost
from quantize.run.way import WAYS, Way, passes
from runtime.archs import family_of
from runtime.errors import InputError, SpaceError
from runtime.quant_types import QUANT_TYPES, QuantType
from runtime.tensor import Tensor
from tests.conftest import config
from tests.moe_models import QWEN2, moe
from tests.quantize.runs import LEAST, assigned, hold, same, small_plan, walk

SIZES = [("16GiB", 16.0), ("8GB", 8e9 / 2**30), ("8", 8.0), (2, 2), (0.5, 0.5), (None, None)]


@pytest.mark.parametrize(("given", "gib"), SIZES)
def test_a_limit_is_gib_or_a_size_with_its_unit(given: str | float | None, gib: float) -> None:
    plan = Plan.from_flags(None, {"to": ["gguf:Q4_0"], "max_ram": given})
    assert plan.max_ram == (gib if gib is None else pytest.approx(gib))


def test_a_limit_in_a_plan_file_may_have_a_unit(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text('to = ["gguf:Q4_0"]\nmax_ram = "512MiB"\n')
    assert Plan.from_flags(tmp_path / "plan.toml", {}).max_ram == 0.5


def test_what_is_no_size_is_refused() -> None:
    with pytest.raises(InputError, match="max_ram '8 apples' is not a size"):
        Plan.from_flags(None, {"to": ["gguf:Q4_0"], "max_ram": "8 apples"})


@pytest.mark.parametrize(
    ("limit", "flags", "way_out"),
    [
        ("0.49", [], "allow --max-ram {}GiB, or use --effort low or --method rtn."),
        ("0.49", ["--effort", "low"], "allow --max-ram {}GiB, or use --method rtn."),
        ("0", [], "allow --max-ram {}GiB."),
        ("100MiB", [], "allow --max-ram {}GiB."),  # less than the program alone
        ("100MiB", ["--method", "rtn"], "allow --max-ram {}GiB."),
    ],
)
def test_a_limit_below_what_is_needed_is_one_sentence_and_nothing_is_written(
    limit: str, flags: list[str], way_out: str, run: Any, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    for command in ("run", "plan"):
        arguments = [command, "--to", "gguf:Q4_0", "--max-ram", limit, "-o", str(output)]
        code, _, err = run(*arguments, "--calib-rows", "2", "--calib-length", "64", *flags)
        said = " ".join(err.split())
        assert code == 2
        needed = said.partition("is less than the ")[2].partition(" GiB that ")[0]
        assert "GiB is less than the" in said
        assert float(needed) > BASE_BYTES / 2**30
        assert way_out.format(needed) in said
        assert not output.exists()


def test_the_fastest_way_that_fits_is_taken() -> None:
    needs = dict(zip(WAYS, (9, 7, 8, 3), strict=True))  # GiB

    def cost(way: Way) -> Cost:
        return Cost(memory=needs[way] << 30, what="blk.0")

    own = BASE_BYTES / 2**30
    limits = {9.01: 0, 8.9: 1, 7.01: 1, 6.9: 3, 3.01: 3}
    found = [fitting(SLACK * (gib + own), cost) for gib in limits]
    assert found == [WAYS[at] for at in limits.values()]
    with pytest.raises(SpaceError, match="GiB that blk.0 needs"):
        fitting(SLACK * (2.99 + own), cost)


@dataclass(frozen=True)
class Shapes:
    """Tensors in bfloat16 of which nothing is known but their shapes."""

    shapes: dict[str, tuple[int, ...]]

    def nbytes(self, name: str) -> int:
        return 2 * math.prod(self.shapes[name])

    def qtype(self, name: str) -> QuantType:
        return QUANT_TYPES["BF16"]


@pytest.mark.parametrize("name", ["72B-1-quarter", "72B-1", "405B-1"])
def test_a_layer_larger_than_memory_has_a_way(name: str) -> None:
    shape, flags = RUNS[name]
    facts = config("qwen2-tied") | MODELS[shape]
    arch = family_of(facts).arch(facts)
    stored: Any = SimpleNamespace(arch=arch, tensors=Shapes(arch.shapes()))
    job = replace(Job.resolve(Plan.from_flags(None, flags)), checkpoint=stored)
    job = limited(job.assigned([assign(Target("gguf", "Q4_K_M"), arch, ())]))
    assert job.max_ram == parse_gib(flags["max_ram"])
    assert BASE_BYTES + run_cost(job, [0]).memory <= job.max_ram * 2**30
    assert job.way.streamed


CASES = [
    ("gguf:Q4_K_M", {}),
    ("gguf:Q2_K", {}),
    ("gptq:int4-act", {}),
    ("onnx:int4", {"method": "awq"}),
    ("onnx:int4 onnx:int8", {"effort": "medium"}),
]


@pytest.mark.parametrize(("to", "flags"), CASES, ids=lambda value: str(value))
@pytest.mark.slow
def test_every_way_gives_the_same_bytes(
    to: str,
    flags: dict[str, str],
    random_models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = small_plan(random_models["llama-untied"], *to.split(), **flags)
    usual = walk(plan, tmp_path / "usual")
    monkeypatch.setattr(streamed, "slices", lambda shape, decoded: slices(shape, 1))
    for number, way in enumerate(WAYS[1:]):
        hold(monkeypatch, way)
        found = walk(plan, tmp_path / str(number))
        assert found.notes() == usual.notes()
        for target in range(len(to.split())):
            assert same(usual.tensors(target), found.tensors(target))
    assert not list(tmp_path.rglob("hessian.npy"))


@pytest.mark.slow
def test_experts_have_the_same_bytes_in_the_way_that_holds_least(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = small_plan(moe(tmp_path / "moe", QWEN2), "gguf:Q2_K")
    usual = walk(plan, tmp_path / "usual")
    hold(monkeypatch, LEAST)
    found = walk(plan, tmp_path / "least")
    assert same(usual.tensors(), found.tensors())
    assert found.notes() == usual.notes()


def test_the_bundled_model_has_the_same_bytes_under_a_low_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {"to": ["gguf:Q4_0"], "rows": 2, "length": 64, "effort": "low", "check": False}
    plan = Plan.from_flags(None, flags)
    written = []
    for way in (WAYS[0], LEAST):
        hold(monkeypatch, way)
        pipeline.run(replace(plan, output=tmp_path / str(way.streamed)))
        written.append(next(tmp_path.joinpath(str(way.streamed)).glob("*.gguf")).read_bytes())
    assert written[0] == written[1]


def test_a_killed_run_goes_on_after_its_last_layer(
    random_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(monkeypatch, LEAST)
    plan = small_plan(random_models["qwen2-tied"], "gguf:Q2_K", rows=2)
    whole = walk(plan, tmp_path / "whole")

    def stop(stage: str, done: int, total: int, note: str) -> None:
        if stage.startswith("layers"):
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        walk(plan, tmp_path / "killed", stop)
    assert same(whole.tensors(), walk(plan, tmp_path / "killed").tensors())


def test_passes_take_as_many_hessians_as_the_largest_has_room(
    random_models: dict[str, Path], tmp_path: Path
) -> None:
    job = assigned(small_plan(random_models["llama-untied"], "gguf:Q4_0"), tmp_path)
    spec = job.checkpoint.arch.layer(0)
    assert passes(spec, WAYS[0], job.recipe) == [spec.groups]
    found = passes(spec, LEAST, job.recipe)
    assert tuple(group for part in found for group in part) == spec.groups
    room = max(group.width for group in spec.groups) ** 2
    assert all(sum(group.width**2 for group in part) <= room for part in found)
    assert len(found) > 1


def test_a_streamed_linear_computes_as_the_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(1100, 160, generator=random)
    tensor = Tensor.dense("blk.0.attn_q.weight", weight.numpy())
    linear = StreamedLinear(lambda: tensor, tensor.shape, torch.device("cpu"), decoded=1)
    x, bias = torch.randn(2, 64, 160, generator=random), torch.randn(1100, generator=random)
    ops = StreamingOps()
    columns, rows = torch.rand(160, generator=random), torch.rand(1100, 1, generator=random)
    assert [len(part) for _, part in linear.parts()] == [256, 256, 256, 332]
    for changed, right in (
        (linear, weight),
        (linear * columns, weight * columns),
        (linear * columns / rows, weight * columns / rows),
    ):
        assert torch.equal(changed.whole(), right)
        assert torch.equal(ops.matmul(x, changed, bias), ops.matmul(x, right, bias))
        gradients = []
        for used in (changed, right):
            leaf = x.clone().requires_grad_()
            ops.matmul(leaf, used, bias).square().sum().backward()
            gradients.append(leaf.grad)
        assert torch.equal(*gradients)


def test_a_factor_in_the_place_of_its_hessian_is_the_same() -> None:
    x = torch.randn(300, 64, generator=torch.Generator().manual_seed(0))
    hessian = x.T @ x / 300
    hessian[5] = hessian[:, 5] = 0  # never read
    right = factor(hessian.clone())
    array = hessian.clone()
    found = factor(array, 0.01, array.copy_)
    assert found.hessian is None
    assert found.root is not None
    assert found.root.data_ptr() == array.data_ptr()
    assert torch.equal(found.root, right.root)
    assert torch.equal(found.importance, right.importance)
    error = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    assert factored_error(error, found) == pytest.approx(output_error(error, hessian), rel=1e-4)


def test_a_factor_that_fails_is_tried_again_on_the_hessian() -> None:
    hessian = torch.diag(torch.tensor([1.0, 1.0, 1.0]))
    hessian[0, 1] = hessian[1, 0] = 1.05  # not positive definite until damped more
    restored = []

    def restore(array: torch.Tensor) -> None:
        restored.append(array.clone())
        array.copy_(hessian)

    right, found = factor(hessian.clone()), factor(hessian.clone(), 0.01, restore)
    assert found.damp == right.damp == 0.1
    assert torch.equal(found.root, right.root)
    assert len(restored) == 1


def test_a_file_of_text_counts_and_what_is_too_large_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "book.txt"
    text.write_text("All happy families are alike. " * 10_000)
    flags = {"to": ["gguf:Q4_0"], "effort": "low", "rows": 2, "length": 64, "check": False}
    job = Job.resolve(Plan.from_flags(None, {**flags, "calibration": str(text)}))
    known = job.assigned([usual(job, target) for target in job.targets])
    assert text_cost(known).memory > 2 * text.stat().st_size
    with text.open("r+b") as file:
        file.truncate(1 << 30)  # holes: nothing is on the disk, and nothing is read
    limited_to = {**flags, "calibration": str(text), "max_ram": "1GiB"}
    with pytest.raises(SpaceError, match=r"is less than the 4\.\d+ GiB that reading .*book\.txt"):
        limited(Job.resolve(Plan.from_flags(None, limited_to)))


def test_a_size_beyond_all_machines_is_refused() -> None:
    with pytest.raises(InputError, match="is more than any machine has"):
        Plan.from_flags(None, {"to": ["gguf:Q4_0"], "max_ram": "9" * 400})
