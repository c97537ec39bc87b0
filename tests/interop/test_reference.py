"""Artifacts judged against transformers itself, so that no mistake of our reader hides."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import edgequant
from quantize.checkpoint import bundled, open_checkpoint
from runtime.engine import open_engine
from runtime.errors import CorruptFileError, EdgequantError, GateError
from tests.one_file_models import make, weights

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'edgequant[interop]'"
)

SHORT = {"eval_rows": 2, "eval_length": 32}


@pytest.fixture(scope="module")
def norm_900(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose k biases have a norm of 900, as Qwen2.5's have."""
    folder = make(tmp_path_factory.mktemp("model") / "norm-900")

    def grow(values: dict[str, torch.Tensor]) -> None:
        for name, value in values.items():
            if name.endswith("k_proj.bias"):
                values[name] = value / value.norm() * 900

    weights(folder, grow)
    return folder


@pytest.fixture(scope="module")
def f32(norm_900: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its F32 GGUF."""
    made = edgequant.quantize(
        norm_900, "gguf:F32", tmp_path_factory.mktemp("made"), method="rtn", check=False
    )
    return made.artifacts[0].path


def test_a_lossless_file_has_no_loss_against_transformers(f32: Path, norm_900: Path) -> None:
    found = edgequant.check(f32, norm_900, reference="transformers", **SHORT)
    assert found.original.backend == "transformers"
    assert found.results[0].metrics.kl < 1e-6
    assert found.results[0].tokenizer is not None and not found.results[0].tokenizer.different


def test_keys_and_values_of_a_judged_file_stay_float32(f32: Path, norm_900: Path) -> None:
    pytest.importorskip("runtime._native")
    exact = edgequant.check(f32, norm_900, **SHORT).results[0]
    halves = edgequant.check(f32, norm_900, kv="f16", **SHORT).results[0]
    assert exact.metrics.kl < 1e-6 < halves.metrics.kl
    assert "judged with keys and values kept as f16" in halves.notes
    with pytest.raises(EdgequantError, match="runs on the numpy backend, .* leave out kv"):
        edgequant.check(f32, norm_900, backend="numpy", kv="f16", **SHORT)


def test_a_file_of_a_misread_original_fails(f32: Path, norm_900: Path, tmp_path: Path) -> None:
    """As if our reader had lost a head: the file is right for us, and wrong for transformers."""
    folder = tmp_path / "headed"
    folder.mkdir()
    for file in norm_900.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights(folder, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].flip(0)}))
    with pytest.raises(GateError):
        edgequant.check(f32, folder, reference="transformers", max_kl=0.01, **SHORT)


def test_added_tokens_are_compared_with_those_of_transformers(
    f32: Path, norm_900: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "added"
    folder.mkdir()
    for file in norm_900.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    decoder = settings.setdefault("added_tokens_decoder", {})
    decoder["4096"] = {"content": "<|tool|>", "special": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    expected = transformers.AutoTokenizer.from_pretrained(folder).encode("a<|tool|>b")
    assert open_checkpoint(folder).tokenizer.encode("a<|tool|>b") == expected
    with pytest.raises(GateError, match="other ids"):
        edgequant.check(f32, folder, reference="transformers", **SHORT)


def test_the_cache_of_transformers_gives_what_a_whole_pass_gives() -> None:
    engine = open_engine(bundled(), "transformers")
    ids = np.random.default_rng(0).integers(0, 4096, (2, 24))
    expected = engine.logits(ids)
    cache = engine.new_cache(2, 24)
    parts = [engine.logits(ids[:, at], cache) for at in (slice(16), slice(16, 20), slice(20, 24))]
    np.testing.assert_allclose(np.concatenate(parts, 1), expected, atol=1e-4)
    np.testing.assert_allclose(engine.logits(ids, last=True), expected[:, -1:], atol=1e-4)
    with pytest.raises(EdgequantError, match="25 tokens do not fit in 24"):
        engine.logits(ids[:, :1], cache)


def test_tensors_that_transformers_would_make_up_are_told(tmp_path: Path) -> None:
    folder = make(tmp_path / "wrapped")
    weights(folder, lambda w: {f"_orig_mod.{name}": value for name, value in w.items()})
    assert open_checkpoint(folder).notes
    with pytest.raises(CorruptFileError, match="transformers finds no tensor for .* random values"):
        open_engine(folder, "transformers")


def test_only_backends_that_run_checkpoints_are_references(f32: Path, norm_900: Path) -> None:
    with pytest.raises(EdgequantError, match="'llamacpp' does not run the original; known: native"):
        edgequant.check(f32, norm_900, reference="llamacpp", **SHORT)
