"""Predicted losses of automatic targets rank files, and single tensors, as measured ones do."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import calib_data
from quantize.calibration.sensitivity import collect
from quantize.checkpoint import Checkpoint
from quantize.methods import METHODS, HessianFactor
from quantize.plan import EFFORTS, Plan
from quantize.run import pipeline
from quantize.run.job import Job
from quantize.run.pieces import quantize_weight
from quantize.run.recipe import Recipe
from quantize.run.sequential import quantize_model
from quantize.run.store import Store
from quantize.run.text import calibration
from quantize.run.writing import write
from runtime.backends.torch import TorchOps
from runtime.engine import open_engine
from runtime.forward import forward, layers
from runtime.gguf_file import open_gguf
from runtime.quant_types import QUANT_TYPES
from tests.quantize.layers import hessians_of
from tests.quantize.runs import small_plan
from tests.small_models import kl

pytestmark = pytest.mark.slow

SIZES = np.geomspace(2_060_000, 9_000_000, 10)
"""Bytes: from hardly more than the smallest file to nearly the original."""
ROWS, LENGTH = 16, 128


def plan_of(checkpoint: Checkpoint, size: float = 3e6, output: str = "unused") -> Plan:
    """An automatic plan, quick."""
    return small_plan(
        checkpoint.folder,
        "gguf:auto",
        target_size=int(size),
        rows=ROWS,
        length=LENGTH,
        effort="medium",
        output=output,
        check=False,
    )


@dataclass(frozen=True)
class Base:
    """Calibration text and gradients, which are the same for all sizes."""

    folder: Path
    ids: np.ndarray
    predictions: dict[str, dict[str, float]]


@pytest.fixture(scope="module")
def base(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = tmp_path_factory.mktemp("base")
    job = Job.resolve(plan_of(tiny), folder=folder)
    ids = calibration(job)
    found = collect(job, ids).predictions()
    return Base(folder, ids, {name: dict(kinds) for name, kinds in found.items()})


@pytest.fixture(scope="module")
def held_out(tiny: Checkpoint) -> np.ndarray:
    """Windows (rows, LENGTH) that calibration never sees."""
    return calib_data.load("builtin", tiny.tokenizer, ROWS, LENGTH, 0, part="heldout").ids


def rank_correlation(left: list[float], right: list[float]) -> float:
    """Spearman's."""
    ranks = [np.argsort(np.argsort(values)) for values in (left, right)]
    return float(np.corrcoef(*ranks)[0, 1])


def test_larger_files_lose_less_as_predicted(
    base: Base, held_out: np.ndarray, tiny: Checkpoint, tmp_path: Path
) -> None:
    original = open_engine(tiny.model(), "torch").logits(held_out)
    predicted, measured = [], []
    for at, size in enumerate(SIZES):
        plan = plan_of(tiny, size, str(tmp_path / f"out-{at}"))
        plan.output.mkdir()
        folder = shutil.copytree(base.folder, tmp_path / f"work-{at}")
        store = Store(folder, Job.resolve(plan_of(tiny)).store.key)
        job = pipeline.assign_all(replace(Job.resolve(plan), store=store))
        member = job.assignments[0]
        write(job, member, quantize_model(job))
        path = job.path(member.target)
        assert member.allocation is not None
        predicted.append(member.allocation.kl)
        measured.append(kl(original, open_engine(open_gguf(path), "torch").logits(held_out)))
    print("predicted", predicted, "measured", measured)
    assert rank_correlation(predicted, measured) >= 0.9
    assert np.all(np.diff(predicted) < 0)
    ratios = np.array(measured) / np.array(predicted)
    assert ((ratios > 0.4) & (ratios < 2.5)).all(), ratios


def rounded(
    checkpoint: Checkpoint, ids: np.ndarray, ops: TorchOps, kind: str
) -> dict[str, torch.Tensor]:
    """Every linear of the layers, rounded against the inputs of the original model."""
    recipe = Recipe(METHODS["gptq"], descent_iterations=EFFORTS["medium"].descent_iterations)
    weights = {name: ops.load(tensor) for name, tensor in checkpoint.tensors.items()}
    hidden = weights["token_embd.weight"][torch.from_numpy(ids).long()].numpy()
    out: dict[str, torch.Tensor] = {}
    for layer in layers(checkpoint.arch, weights):
        hessians = hessians_of(layer, hidden, hidden)
        for group in layer.spec.groups:
            factor: HessianFactor | None = recipe.factor(hessians[group.name], "")[0]
            for linear in group.linears:
                weight = layer.weights[f"{linear}.weight"]
                value = quantize_weight(weight, QUANT_TYPES[kind], recipe, factor)[1]
                out[f"blk.{layer.index}.{linear}.weight"] = value
    return out


@pytest.mark.parametrize("kind", ["Q2_K", "Q4_K"])
def test_tensors_alone_rank_as_predicted(
    kind: str, base: Base, held_out: np.ndarray, tiny: Checkpoint
) -> None:
    ops = TorchOps()
    weights = {name: ops.load(tensor) for name, tensor in tiny.tensors.items()}

    def logits(changed: dict[str, torch.Tensor]) -> np.ndarray:
        now = weights | changed
        out = forward(ops, tiny.arch, now, layers(tiny.arch, now), held_out)
        return np.asarray(out.numpy())

    original = logits({})
    values = rounded(tiny, base.ids.ids, ops, kind)
    predicted = [base.predictions[name][kind] for name in values]
    measured = [kl(original, logits({name: value})) for name, value in values.items()]
    found = rank_correlation(predicted, measured)
    print(
        kind, "rank correlation", found, "predicted over measured", sum(predicted) / sum(measured)
    )
    assert found >= 0.8
