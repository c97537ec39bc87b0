"""The bytes of an artifact do not depend on the number of threads, nor on our kernels' level."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from quantize.checkpoint import bundled
from quantize.methods.fixed_order import (
    BLOCK,
    factor_in_place,
    mean_size,
    solve_in_place,
    sum_of,
)
from quantize.run.pipeline import run
from tests.quantize.runs import small_plan

THREADS = (1, 2, 3, 5)
WIDTHS = (1, 7, BLOCK, BLOCK + 1, 700, 1300)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The number of threads is put back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def products_in_one_order(native_settings: Any) -> None:
    """Skips where another math library, or another part of it, multiplies matrices."""
    sets = native_settings.instruction_sets()
    if "avx2" not in sets or any(name.startswith("avx512") for name in sets):
        pytest.skip("products of matrices were looked at with AVX2 alone")


def random(*shape: int) -> torch.Tensor:
    """The same numbers at each call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


def uneven(width: int) -> torch.Tensor:
    """A positive definite matrix (width, width) whose diagonal spans five orders of magnitude."""
    x = random(width + 50, width) * torch.logspace(-2, 0.5, width)
    return x.T @ x / len(x)


def for_each_number_of_threads(compute: Any) -> list[torch.Tensor]:
    """What it computes, once for each number of threads."""
    found = []
    for count in THREADS:
        torch.set_num_threads(count)
        found.append(compute())
    return found


@pytest.mark.parametrize("width", WIDTHS)
def test_factor_is_that_of_lapack_in_float64(width: int) -> None:
    matrix = uneven(width)
    lower = matrix.clone()
    assert factor_in_place(lower)
    expected = torch.linalg.cholesky(matrix.double())
    assert torch.equal(lower, lower.tril())
    assert float((lower - expected).abs().max()) < 1e-5 * float(expected.abs().max())
    torch.testing.assert_close((lower @ lower.T), matrix, rtol=0, atol=1e-5)


@pytest.mark.parametrize("width", WIDTHS)
def test_solution_is_that_of_float64(width: int) -> None:
    matrix = uneven(width) + torch.eye(width)
    right, lower = random(width, 33), matrix.clone()
    assert factor_in_place(lower)
    expected = torch.linalg.solve(matrix.double(), right.double())
    for given in (right.clone(), right.T.contiguous().T):
        solve_in_place(lower, given)
        assert float((given - expected).abs().max()) < 1e-4 * float(expected.abs().max())


@pytest.mark.parametrize("at", (0, BLOCK - 1, BLOCK, 699))
@pytest.mark.parametrize("value", (-1.0, float("nan"), float("inf")))
def test_what_is_not_positive_definite_has_no_factor(at: int, value: float) -> None:
    matrix = uneven(700)
    matrix[at, at] = value
    assert not (factor_in_place(matrix) and bool(torch.isfinite(matrix.diagonal()).all()))


def test_number_of_threads_does_not_change_a_sum() -> None:
    long = random(1 << 18)

    def sums() -> torch.Tensor:
        return torch.tensor([sum_of(long), mean_size(long.abs())])

    first, *others = for_each_number_of_threads(sums)
    assert all(torch.equal(first, other) for other in others)
    assert torch.get_num_threads() == THREADS[-1]


@pytest.mark.usefixtures("products_in_one_order")
def test_number_of_threads_does_not_change_a_factor_or_a_solution() -> None:
    matrix, right = uneven(1300), random(1300, 300)

    def factor() -> torch.Tensor:
        lower = matrix.clone()
        assert factor_in_place(lower)
        return lower

    def solution() -> torch.Tensor:
        found = right.clone()
        solve_in_place(factor(), found)
        return found

    for compute in (factor, solution):
        first, *others = for_each_number_of_threads(compute)
        assert all(torch.equal(first, other) for other in others)


def digests(folder: Path) -> dict[str, str]:
    """File of the artifacts -> sha256."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@pytest.mark.slow
@pytest.mark.usefixtures("products_in_one_order")
@pytest.mark.parametrize("effort", ("low", "medium"))
def test_artifacts_are_the_same_bytes(effort: str, tmp_path: Path, native_settings: Any) -> None:
    found = []
    for number, level in ((1, "baseline"), (2, "avx2"), (4, "avx2")):
        torch.set_num_threads(number)
        native_settings.set_threads(number)
        native_settings.set_instruction_set(level)
        plan = small_plan(
            bundled(), "gguf:Q4_K_M", "onnx:int4", "gptq:int4", effort=effort, check=False,
            rows=8, length=128, output=tmp_path / str(number),
        )  # fmt: skip
        run(plan)
        found.append(digests(tmp_path / str(number)))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) > 3
