"""Comparing engines window by window."""

from pathlib import Path

import numpy as np
import pytest

from quantize.checkpoint import Checkpoint, open_checkpoint
from quantize.report.compare import compare, tokens_at_once
from quantize.report.metrics import score
from runtime.engine import Engine, open_engine
from runtime.errors import EdgequantError
from runtime.model import Model
from runtime.tensor import Tensor
from tests.quantize.report.conftest import Steps, rounded

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def original(small: Checkpoint) -> Engine:
    return open_engine(small.model(), "torch")


@pytest.fixture(scope="module")
def candidate(small: Checkpoint) -> Engine:
    tensors = {tensor.name: tensor for tensor in rounded(small, "INT4_32")}
    return open_engine(Model(small.arch, tensors), "numpy")


@pytest.fixture
def windows(small: Checkpoint) -> np.ndarray:
    return np.random.default_rng(0).integers(0, small.arch.vocab, (3, 20), np.int32)


def test_every_candidate_is_scored_on_every_window(original, candidate, windows) -> None:
    steps = Steps()
    found = compare(original, {"a": candidate, "same": original}, windows, steps)
    assert steps.seen == [("judging", done, 3) for done in (1, 2, 3)]
    assert not found["same"].kl.any()
    for row, ids in enumerate(windows):
        before, after = (engine.logits(ids[None])[0] for engine in (original, candidate))
        expected = score(before, after, np.append(ids[1:], -1))
        for name in vars(expected):
            np.testing.assert_array_equal(getattr(found["a"], name)[row], getattr(expected, name))
    assert found["a"].kl.mean() > 0


def test_long_windows_go_through_in_pieces_with_the_same_result(
    original, candidate, windows
) -> None:
    whole = compare(original, {"a": candidate}, windows, Steps())["a"]
    piece = 7 * 4 * original.arch.vocab
    assert tokens_at_once(original.arch, windows.shape[1], piece) == 7
    pieces = compare(original, {"a": candidate}, windows, Steps(), piece)["a"]
    for name in vars(whole):
        np.testing.assert_allclose(
            getattr(whole, name), getattr(pieces, name), rtol=1e-3, atol=1e-6
        )


def test_a_candidate_with_another_vocabulary_is_refused(original, tiny, windows, small) -> None:
    tensors = dict(small.tensors.items())
    embedding = tensors["token_embd.weight"].decode()[:100]
    tensors["token_embd.weight"] = Tensor.dense("token_embd.weight", embedding)
    cut = open_engine(Model(small.arch, tensors), "numpy")
    with pytest.raises(EdgequantError, match="cut predicts 100 tokens and the original 4096"):
        compare(original, {"cut": cut}, windows % 100, Steps())


def test_a_window_longer_than_the_context_is_refused(original, candidate) -> None:
    with pytest.raises(EdgequantError, match="has a context of 256 tokens .* --eval-length 256"):
        compare(original, {"a": candidate}, np.zeros((1, 257), np.int32), Steps())


def test_a_broken_original_is_refused(small: Checkpoint, candidate, windows) -> None:
    tensors = dict(small.tensors.items())
    bad = np.full(small.arch.hidden, np.nan, np.float32)
    tensors["output_norm.weight"] = Tensor.dense("output_norm.weight", bad)
    non_finite = open_engine(Model(small.arch, tensors), "numpy")
    with pytest.raises(EdgequantError, match="the original computes NaN or infinite logits"):
        compare(non_finite, {"a": candidate}, windows, Steps())


@pytest.mark.parametrize("name", ["llama-untied", "qwen2-untied"])
def test_every_family_can_be_compared(name: str, random_models: dict[str, Path]) -> None:
    checkpoint = open_checkpoint(random_models[name])
    engines = [open_engine(checkpoint.model(), backend) for backend in ("torch", "numpy")]
    ids = np.random.default_rng(1).integers(0, checkpoint.arch.vocab, (1, 16), np.int32)
    found = compare(engines[0], {"same": engines[1]}, ids, Steps())["same"]
    assert found.kl.max() < 1e-6
    assert found.top1_match.all()
