"""bench/gpu.py, as far as it goes without a card."""

import argparse
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import gpu, shapes

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
}


def test_a_small_model_is_measured_on_the_cpu_by_the_same_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(shapes.CONFIGS, "small", shapes.QWEN | SMALL)
    flags = argparse.Namespace(repeat=1, prompt=5, generate=3)
    row = gpu.measure("small", "Q8_0", flags, most=1e9, device="cpu")
    assert row.pop("model") == "small Q8_0"
    assert all(math.isfinite(value) and value > 0 for value in row.values())


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card: it would be measured")
def test_without_a_card_it_says_so_and_writes_nothing() -> None:
    before = sorted((ROOT / "bench" / "results").iterdir())
    run = subprocess.run(
        [sys.executable, "bench/gpu.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    expected = "There is no CUDA card here that torch can use: nothing was measured.\n"
    assert run.stdout == expected
    assert sorted((ROOT / "bench" / "results").iterdir()) == before
