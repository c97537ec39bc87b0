"""Replacing one part of the original at a time, against whole models that differ in that part."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quantize.checkpoint import open_checkpoint
from quantize.report.metrics import score
from quantize.report.scan import scan
from quantize.report.sensitivity import LEVELS, affordable, sensitivity
from runtime.engine import open_engine
from runtime.model import Model
from runtime.tensor import Tensor
from tests.quantize.report.conftest import Steps, rounded

pytestmark = pytest.mark.numeric

WINDOWS = np.random.default_rng(0).integers(0, 4096, (2, 24), np.int32)


def slow_twin(checkpoint, artifact: Model, chosen) -> float:
    """Mean KL of a whole model in which the tensors that `chosen` accepts are the artifact's."""
    mixed = {n: (artifact if chosen(n) else checkpoint).tensors[n] for n in checkpoint.tensors}
    after = open_engine(Model(checkpoint.arch, mixed), "torch").logits(WINDOWS)
    before = open_engine(checkpoint.model(), "torch").logits(WINDOWS)
    unknown = np.full(WINDOWS.shape[1], -1)
    rows = zip(before, after, strict=True)
    return float(np.mean([score(p, q, unknown).kl.mean() for p, q in rows]))


@pytest.mark.parametrize("name", ["qwen2-tied", "llama-untied"])
def test_each_effect_is_that_of_a_whole_model_with_that_part_replaced(
    name: str, random_models: dict[str, Path]
) -> None:
    checkpoint = open_checkpoint(random_models[name])
    artifact = Model(checkpoint.arch, {t.name: t for t in rounded(checkpoint, "INT4_32")})
    original = open_engine(checkpoint.model(), "torch")
    found = sensitivity(original, artifact, scan(checkpoint.model(), artifact), WINDOWS, Steps())
    outside = [n for n in ("token_embd.weight", "output.weight") if n in checkpoint.tensors]
    assert [p.part for p in found.parts] == [outside[0], "blk.0", "blk.1", *outside[1:]]
    matrices = [n for n, shape in checkpoint.tensors.shapes.items() if len(shape) == 2]
    assert [effect.part for effect in found.tensors] == matrices
    for effect in found.parts:
        twin = slow_twin(checkpoint, artifact, lambda n: n.startswith(effect.part))  # noqa: B023
        assert effect.kl == pytest.approx(twin, rel=1e-3, abs=1e-9)
    for effect in found.tensors[::6]:
        twin = slow_twin(checkpoint, artifact, lambda n: n == effect.part)  # noqa: B023
        assert effect.kl == pytest.approx(twin, rel=1e-3, abs=1e-9)


def test_a_head_of_its_own_is_measured_apart_from_the_embedding(small) -> None:
    tensors = {t.name: t for t in rounded(small, "INT4_32")}
    tensors["output.weight"] = replace(tensors["token_embd.weight"], name="output.weight")
    untied = Model(replace(small.arch, tied=False), tensors)
    found = scan(small.model(), untied)
    assert found.problems == ()
    assert "its head is stored apart" in found.notes[0]
    original = open_engine(small.model(), "torch")
    effects = sensitivity(original, untied, found, WINDOWS, Steps())
    kl = {effect.part: effect.kl for effect in effects.parts}
    before = {**small.tensors, "output.weight": small.tensors["token_embd.weight"]}
    for name in ("token_embd.weight", "output.weight"):
        mixed = Model(untied.arch, {**before, name: tensors[name]})
        after = open_engine(mixed, "torch").logits(WINDOWS)
        rows = zip(original.logits(WINDOWS), after, strict=True)
        twin = np.mean([score(p, q, np.full(24, -1)).kl.mean() for p, q in rows])
        assert kl[name] == pytest.approx(float(twin), rel=1e-3, abs=1e-9)


def test_rescaled_layers_are_measured_whole_and_it_is_said(small) -> None:
    artifact = Model(small.arch, {t.name: t for t in rounded(small, "INT4_32")})
    found = replace(scan(small.model(), artifact), rescaled=True)
    original = open_engine(small.model(), "torch")
    effects = sensitivity(original, artifact, found, WINDOWS, Steps())
    assert effects.tensors == ()
    assert [effect.part for effect in effects.parts] == ["token_embd.weight", "blk.0", "blk.1"]
    assert "scales or channels were moved" in effects.how


def test_a_damaged_bias_is_named_by_its_effect_alone(small) -> None:
    tensors = {t.name: t for t in rounded(small, "INT8_32")}
    name = "blk.1.attn_q.bias"
    tensors[name] = Tensor.dense(name, tensors[name].decode() + 2)
    artifact = Model(small.arch, tensors)
    original = open_engine(small.model(), "torch")
    effects = sensitivity(
        original, artifact, scan(small.model(), artifact), WINDOWS, Steps()
    ).tensors
    assert max(effects, key=lambda effect: effect.kl).part == name


def test_what_is_measured_follows_the_cost(small) -> None:
    arch = small.arch
    costs = [level.cost(arch) for level in LEVELS]
    assert affordable(arch, max(costs)) == LEVELS[0]
    assert affordable(arch, min(costs)) == LEVELS[3]
    assert affordable(arch, min(costs) / 2) is None
    artifact = Model(arch, {t.name: t for t in rounded(small, "INT4_32")})
    original, found = open_engine(small.model(), "torch"), scan(small.model(), artifact)
    layers = sensitivity(original, artifact, found, WINDOWS, Steps(), min(costs))
    assert (len(layers.parts), layers.tensors) == (3, ())
    assert "because the model is large" in layers.how
    nothing = sensitivity(original, artifact, found, WINDOWS, Steps(), 1.0)
    assert (nothing.parts, nothing.tensors) == ((), ())
    assert nothing.how.startswith("not measured")


def test_progress_reaches_its_end(small) -> None:
    artifact = Model(small.arch, {t.name: t for t in rounded(small, "INT4_32")})
    steps = Steps()
    original = open_engine(small.model(), "torch")
    sensitivity(original, artifact, scan(small.model(), artifact), WINDOWS[:1], steps)
    assert steps.seen[-1][1] == steps.seen[-1][2] == len(steps.seen)
