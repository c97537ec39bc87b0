"""What the benches of speed work on, and how their figures are made of seconds and errors."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bench import quantize_speed, shapes, speed
from quantize.bench.speed import BenchRequest, BenchResult, Samples
from quantize.checkpoint import Checkpoint
from runtime.engine import open_engine
from runtime.gguf_file import open_gguf
from runtime.quant_types import QUANT_TYPES
from tests.small_models import log_softmax

SMALL = {
    "vocab_size": 5200,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
}


@pytest.mark.slow
def test_a_random_file_has_the_mixture_and_a_vocabulary_of_the_size_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(shapes.CONFIGS, "small", shapes.QWEN | SMALL)
    path = shapes.file("small", "Q4_K_M", tmp_path, words=5000)
    model = open_gguf(path)
    assert model.arch == shapes.arch_of("small")
    types = Counter(model.tensors[name].qtype.name for name in model.tensors)
    assert types.keys() == {"Q4_K", "Q6_K", "F32"}
    assert model.tokenizer is not None
    text = "Does a grown vocabulary still say this?"
    assert model.tokenizer.decode(model.tokenizer.encode(text)) == text
    assert model.tokenizer.backend.get_vocab_size() >= 5000
    logits = open_engine(model, "numpy").logits(np.arange(6).reshape(1, 6))
    assert np.isfinite(logits).all()
    assert shapes.file("small", "Q4_K_M", tmp_path, words=5000) == path  # it is there already


def test_the_large_models_have_the_layers_and_bytes_of_qwen() -> None:
    kinds = quantize_speed.kinds("1.5B", "Q4_K_M")
    assert kinds.total() == 28 * 7 + 1
    assert kinds[(151936, 1536), "Q6_K"] == 1
    assert sum(rows * cols * n for ((rows, cols), _), n in kinds.items()) == 1_543_569_408
    assert sum(name == "Q6_K" for _, name in kinds.elements()) == 1 + 2 * 14


def test_the_loss_of_a_window_is_the_mean_over_its_next_tokens(tiny: Checkpoint) -> None:
    engine = open_engine(tiny.model(), "numpy")
    ids = np.random.default_rng(0).integers(tiny.arch.vocab, size=9)
    logits = engine.logits(ids[None])[0]
    expected = -log_softmax(logits)[np.arange(8), ids[1:]].mean()
    assert speed.loss(engine, ids) == pytest.approx(expected, rel=1e-5)


def test_memory_is_what_stands_beyond_the_file_and_a_cache_of_float16() -> None:
    arch = shapes.arch_of("1.5B")
    assert speed.cache_bytes(arch, 1) == 2 * 28 * 256 * 2  # keys and values of 2 x 128 channels
    asked = BenchRequest(Path("a.gguf"), 2, "llama.cpp", generate=1, repeat=2)
    known = 1_000_000_000 + speed.cache_bytes(arch, asked.capacity)
    ours, theirs = (
        Samples(name, memory={"resident": known + more})
        for name, more in (("native", 90_000_000), ("llamacpp", 700_000_000))
    )
    result = BenchResult(asked, 1_000_000_000, 1, [], [ours, theirs])
    row = speed.memory(speed.RUNS["1.5B-Q4_K_M"], result)
    assert (row["ours"], row["llama.cpp"]) == (90.0, 700.0)


def test_errors_are_those_of_the_packed_bytes_plain_and_weighted() -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((3, 64), np.float32)
    qtype = QUANT_TYPES["Q4_0"]
    packed = qtype.pack(*qtype.quantize(weight))
    expected = np.zeros(4)
    for row, rounded in zip(weight, qtype.decode(packed), strict=True):
        for start in (0, 32):
            here = slice(start, start + 32)
            rms = np.sqrt(np.mean(row[here] ** 2))
            for w, found in zip(row[here], rounded[here], strict=True):
                square = (w - found) ** 2
                importance = abs(w) + rms
                expected += [square, w**2, square * importance, w**2 * importance]
    assert quantize_speed.errors(weight, packed, qtype) == pytest.approx(expected, rel=1e-5)


def test_a_quantizer_is_compared_round_by_round() -> None:
    ours = [{"hessians": 1.0, "rounding": 1.0}, {"hessians": 3.0, "rounding": 1.0}]
    theirs = [{"hessians": 2.0, "rounding": 4.0}, {"hessians": 1.0, "rounding": 3.0}]
    row = quantize_speed.gptq_row("theirs", theirs, ours)
    assert row["times_ours"] == (6 / 2 + 4 / 4) / 2
    assert row["total"] == 5.0
    assert row["rounding_share"] == (4 / 6 + 3 / 4) / 2


def test_what_products_leave_of_a_token_is_everything_else() -> None:
    pytest.importorskip("runtime._native", reason="the kernels are not compiled")
    from bench import token_profile

    times = {"whole": 0.01, "attn_q": 0.002, "head": 0.005, "limit": 1e9}
    rows = token_profile.table("a", [times], Counter(attn_q=1_000_000, head=5_000_000))
    found = {row["part"]: row for row in rows}
    assert found["everything else"]["ms"] == pytest.approx(3.0)
    assert found["head"]["of_bandwidth"] == 1.0
    assert found["a token"]["of_bandwidth"] == 0.6
    assert sum(row["share"] for row in rows[:-1]) == pytest.approx(1.0)
