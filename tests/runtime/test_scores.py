"""Heads that score texts: read from config.json, read at their places, refused where unknown."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from quantize.checkpoint import open_checkpoint
from runtime.archs import family_of
from runtime.archs.heads import score_head
from runtime.engine import open_engine
from runtime.errors import CorruptFileError, InputError, UnsupportedError
from runtime.generate import generate
from runtime.scores import as_scores, places, scores, text_ids
from tests.conftest import CONFIGS, SIZES
from tests.one_file_models import edit, weights
from tests.score_models import KINDS, make_scorer


def head(named: str, **facts: Any) -> Any:
    return score_head({"hidden_size": 8, "architectures": [named]} | facts)


@pytest.mark.parametrize(
    ("facts", "labels"),
    [
        ({}, 2),
        ({"num_labels": 1}, 1),
        ({"num_labels": 5, "id2label": {"0": "bad", "1": "so", "2": "good"}}, 3),
    ],
)
def test_labels_are_counted_as_transformers_does(facts: dict[str, Any], labels: int) -> None:
    found = head("LlamaForSequenceClassification", **facts)
    assert found.shapes == {"score.weight": (labels, 8)}


def test_the_heads_of_math_models_are_two_layers() -> None:
    reward, steps = head("Qwen2ForRewardModel"), head("Qwen2ForProcessRewardModel")
    assert reward.shapes == {
        "score.0.weight": (8, 8),
        "score.0.bias": (8,),
        "score.2.weight": (1, 8),
        "score.2.bias": (1,),
    }
    assert (reward.marker, reward.label) == (None, None)
    assert (steps.labels, steps.marker, steps.label) == (2, "<extra_0>", 1)


@pytest.mark.parametrize("named", ["Qwen2ForCausalLM", "Qwen2Model", ""])
def test_models_that_predict_tokens_have_none(named: str) -> None:
    assert head(named) is None


@pytest.mark.parametrize("named", ["Qwen2ForTokenClassification", "Qwen2ForQuestionAnswering"])
def test_a_head_of_another_form_is_refused_by_name(named: str) -> None:
    with pytest.raises(UnsupportedError, match=f"names '{named}' in architectures, a head of a"):
        family_of(SIZES | CONFIGS["qwen2-tied"]).arch(
            SIZES | CONFIGS["qwen2-tied"] | {"architectures": [named]}
        )


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_is_no_table_of_tokens(kind: str, tmp_path: Path) -> None:
    arch = open_checkpoint(make_scorer(tmp_path, kind)).arch
    assert not arch.own_head
    assert not arch.tied
    assert "output.weight" not in arch.shapes()
    assert arch.outputs == KINDS[kind][2]


def test_a_head_for_tokens_is_left_out_aloud(tmp_path: Path) -> None:
    folder = make_scorer(tmp_path, "math-rm")
    assert open_checkpoint(folder).notes == ()
    weights(folder, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone()}))
    assert open_checkpoint(folder).notes == (
        "lm_head.weight is left out: the model scores texts and predicts no tokens",
    )


def test_labels_that_the_weight_has_not_are_told(tmp_path: Path) -> None:
    folder = make_scorer(tmp_path, "qwen2", id2label={"0": "a", "1": "b"})
    weights(folder, lambda w: w.update({"score.weight": w["score.weight"][:1].clone()}))
    with pytest.raises(CorruptFileError, match=r"score.weight has shape \(1, 64\), config.json"):
        open_checkpoint(folder)


@pytest.mark.parametrize("backend", ["numpy", "torch", "native"])
def test_a_text_is_read_in_pieces_as_at_once(backend: str, tmp_path: Path) -> None:
    if backend == "native":
        pytest.importorskip("runtime._native")
    options = {"kv": "f32"} if backend == "native" else {}
    model = open_checkpoint(make_scorer(tmp_path, "math-rm")).model()
    engine = open_engine(model, backend, **options)
    ids = np.random.default_rng(1).integers(0, 4000, (2, 30))
    whole = engine.logits(ids)
    cache = engine.new_cache(2, 30)
    pieces = [engine.logits(part, cache) for part in np.split(ids, [11, 29], axis=1)]
    size = np.abs(whole).max()
    assert np.abs(np.concatenate(pieces, 1) - whole).max() <= 1e-3 * size
    assert np.abs(engine.logits(ids, last=True) - whole[:, -1:]).max() <= 1e-3 * size


def test_a_score_is_read_at_the_last_token_or_at_every_marker(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(make_scorer(tmp_path, "math-prm"))
    found = checkpoint.arch.score_head
    assert found is not None
    ids = text_ids(checkpoint.tokenizer, "a<extra_0>b<extra_0>")
    marker = checkpoint.tokenizer.encode("<extra_0>")[0]
    assert places(found, checkpoint.tokenizer, ids) == [i for i, t in enumerate(ids) if t == marker]
    with pytest.raises(InputError, match="the text has no <extra_0>, at which"):
        places(found, checkpoint.tokenizer, ids[:1])
    with pytest.raises(InputError, match="the tokenizer has no token <extra_0>"):
        places(found, None, ids)
    plain = head("Qwen2ForRewardModel")
    assert places(plain, None, ids) == [len(ids) - 1]


def test_the_probability_of_a_label_is_its_softmax() -> None:
    outputs = np.array([[1.0, 3.0], [500.0, -500.0]], np.float32)
    expected = torch.from_numpy(outputs).softmax(-1)[:, 1:].numpy()
    found = as_scores(head("Qwen2ForProcessRewardModel"), outputs)
    np.testing.assert_allclose(found, expected, atol=1e-7)
    assert as_scores(head("Qwen2ForRewardModel"), outputs) is outputs


def test_an_adapter_may_bring_the_head(tmp_path: Path) -> None:
    base, adapter = make_scorer(tmp_path / "model", "qwen2"), tmp_path / "adapter"
    adapter.mkdir()
    facts = {"peft_type": "LORA", "task_type": "SEQ_CLS", "r": 4, "lora_alpha": 8}
    facts |= {"target_modules": ["q_proj"], "modules_to_save": ["score"]}
    (adapter / "adapter_config.json").write_text(json.dumps(facts))
    place = "base_model.model.model.layers.0.self_attn.q_proj"
    arrays = {
        f"{place}.lora_A.weight": torch.ones(4, 64),
        f"{place}.lora_B.weight": torch.ones(64, 4),
    }
    save_file(
        arrays | {"base_model.model.score.weight": torch.full((1, 64), 3.0)},
        adapter / "adapter_model.safetensors",
    )
    tensors = open_checkpoint(base, [adapter]).tensors
    assert (tensors["score.weight"].decode() == 3).all()


def test_what_cannot_be_scored_is_told(tmp_path: Path, tiny: Any) -> None:
    engine = open_engine(open_checkpoint(make_scorer(tmp_path, "qwen2")).model(), "numpy")
    with pytest.raises(InputError, match="a text has 129 tokens, and the model's context is 128"):
        scores(engine, [5] * 129)
    with pytest.raises(InputError, match="the text has no tokens"):
        text_ids(engine.tokenizer, "")
    with pytest.raises(InputError, match="no tokenizer, so it cannot read a text"):
        text_ids(None, "a")
    with pytest.raises(UnsupportedError, match="scores texts and predicts no tokens"):
        list(generate(engine, [5], 3))
    with pytest.raises(UnsupportedError, match="predicts tokens and scores no texts"):
        scores(open_engine(tiny.model(), "numpy"), [5])


@pytest.mark.parametrize("named", [["Qwen2ForCausalLM"], None])
def test_a_head_that_architectures_does_not_name_is_told(
    named: list[str] | None, tmp_path: Path
) -> None:
    folder = make_scorer(tmp_path, "qwen2")
    edit(folder, "config.json", architectures=named)
    with pytest.raises(UnsupportedError, match=r"\(score\.weight\), but architectures in config"):
        open_checkpoint(folder)
