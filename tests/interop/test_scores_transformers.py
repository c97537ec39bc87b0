"""Scores of texts against transformers, and of heads that it has no class for against torch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from export import CONTAINERS
from quantize.checkpoint import open_checkpoint
from quantize.report.judge import check_files
from runtime.engine import open_engine
from runtime.errors import UnsupportedError
from runtime.scores import early, places, scores
from tests.one_file_models import SINGLE
from tests.score_models import KINDS, PAD, make_scorer
from tests.small_models import rounded

transformers: Any = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'edgequant[interop]'"
)

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("exact_products")]

PLAIN = [kind for kind, (_, named, _) in KINDS.items() if "Sequence" in named]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("scorers")
    return {kind: make_scorer(root / kind, kind) for kind in KINDS}


def ids_of(rows: int = 2, length: int = 33) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 4000, (rows, length))


def expected_of(folder: Path, kind: str, ids: np.ndarray) -> np.ndarray:
    """What a head writes at every token (B, T, labels), by transformers' own decoder."""
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)
    values = {k: v.float() for k, v in load_file(folder / SINGLE).items() if k.startswith("score")}
    linear = torch.nn.functional.linear
    with torch.no_grad():
        states = model(torch.from_numpy(ids)).last_hidden_state
        if kind in PLAIN:
            return np.asarray(linear(states, values["score.weight"]))
        inner = torch.relu(linear(states, values["score.0.weight"], values["score.0.bias"]))
        return np.asarray(linear(inner, values["score.2.weight"], values["score.2.bias"]))


def near(found: np.ndarray, expected: np.ndarray, size: float = 0.0) -> bool:
    """Whether both are equal but for the order of sums, in numbers of this size."""
    return bool(np.abs(found - expected).max() <= 1e-4 * max(size, np.abs(expected).max()))


@pytest.mark.parametrize("kind", KINDS)
def test_every_engine_writes_what_transformers_does(
    folders: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    checkpoint, ids = open_checkpoint(folders[kind]), ids_of()
    expected = expected_of(folders[kind], kind, ids)
    for backend in ("numpy", "torch", "native"):
        options = {"kv": "f32"} if backend == "native" else {}
        found = open_engine(checkpoint.model(), backend, **options).logits(ids)
        assert near(found, expected), backend
    tensors = rounded(checkpoint, "F32")
    CONTAINERS["onnx"].write(tmp_path / "x", checkpoint.arch, tensors, checkpoint.folder, {})
    engine = open_engine(tmp_path / "x", "onnxruntime", threads=1, accuracy_level=0)
    assert near(engine.logits(ids), expected)
    assert near(engine.logits(ids, last=True), expected[:, -1:])


@pytest.mark.parametrize("kind", PLAIN)
def test_the_score_of_a_text_is_that_of_transformers_unless_it_ends_with_padding(
    folders: dict[str, Path], kind: str
) -> None:
    oracle = transformers.AutoModelForSequenceClassification.from_pretrained(
        folders[kind], dtype=torch.float32
    )
    checkpoint = open_checkpoint(folders[kind])
    engine, head = open_engine(checkpoint.model(), "numpy"), checkpoint.arch.score_head
    assert head is not None
    text = [int(token) for token in ids_of(1)[0]]

    def theirs(ids: list[int]) -> np.ndarray:
        with torch.no_grad():
            mask = torch.ones(1, len(ids), dtype=torch.int64)
            return np.asarray(oracle(torch.tensor([ids]), attention_mask=mask).logits)

    ended = [*text, PAD]
    own = expected_of(folders[kind], kind, np.array([ended]))[0]  # (T, labels)
    size = float(np.abs(own).max())
    assert near(scores(engine, text), theirs(text), size)
    assert not early(head, text)
    # theirs is that of the text without its end, whatever the mask says; ours reads the end
    assert early(head, ended)
    assert near(scores(engine, text), theirs(ended), size)
    assert not near(scores(engine, ended), theirs(ended), size)
    assert near(scores(engine, ended)[0], own[-1], size)


def test_a_process_reward_model_gives_the_probability_of_a_good_step_at_each_marker(
    folders: dict[str, Path],
) -> None:
    checkpoint = open_checkpoint(folders["math-prm"])
    engine, head = open_engine(checkpoint.model(), "numpy"), checkpoint.arch.score_head
    assert head is not None
    ids = checkpoint.tokenizer.encode("One.<extra_0>Two and three.<extra_0>")
    at = places(head, checkpoint.tokenizer, ids)
    assert at == [index for index, token in enumerate(ids) if token == max(ids)]
    assert len(at) == 2
    outputs = torch.from_numpy(expected_of(folders["math-prm"], "math-prm", np.array([ids])))
    expected = outputs.softmax(-1)[0, at, 1:].numpy()
    assert near(scores(engine, ids), expected)


def test_files_are_judged_against_transformers(folders: dict[str, Path], tmp_path: Path) -> None:
    checkpoint, file = open_checkpoint(folders["qwen3"]), tmp_path / "x-onnx"
    tensors = rounded(checkpoint, "F32")
    CONTAINERS["onnx"].write(file, checkpoint.arch, tensors, checkpoint.folder, {})
    flags: dict[str, Any] = {"eval_rows": 2, "eval_length": 64, "reference": "transformers"}
    told: list[Any] = []
    against = str(checkpoint.folder)
    report = check_files([file], against, None, "native", flags, lambda *t: told.append(t))
    (result,) = report.results
    assert not result.failures
    assert result.metrics.deviation <= 1e-4 * result.metrics.spread
    with pytest.raises(UnsupportedError, match=r"no class for the head of .*math-rm"):
        open_engine(folders["math-rm"], "transformers")
