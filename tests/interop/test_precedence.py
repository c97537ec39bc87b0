"""Checkpoints whose files say two things are read as transformers reads them."""

import itertools
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quantize.checkpoint import bundled, open_checkpoint
from runtime.engine import open_engine
from runtime.errors import EdgequantError
from tests.one_file_models import (
    YARN,
    copied_head,
    edit,
    index_of_nothing,
    make,
    own_head,
    stale_index,
    weights,
    with_config,
)

transformers = pytest.importorskip("transformers")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

IDS = np.random.default_rng(0).integers(0, 4096, (1, 96))


def theirs(folder: Path) -> np.ndarray:
    """transformers' logits in float32."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return np.asarray(model(torch.from_numpy(IDS)).logits)


def ours(folder: Path) -> np.ndarray:
    """Our logits of the checkpoint, by the plainest engine."""
    return np.asarray(open_engine(open_checkpoint(folder).model(), "numpy").logits(IDS))


def assert_same_logits(folder: Path) -> None:
    expected = theirs(folder)
    assert np.abs(ours(folder) - expected).max() < 1e-4 * np.abs(expected).max()


TRAITS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a head of its own": (own_head, "lm_head.weight is not the embedding"),
    "a copy of the embedding as head": (copied_head, ""),
    "an index of other shards": (stale_index, "model.safetensors was read and"),
    "an index of no shards": (index_of_nothing, "model.safetensors was read and"),
    "two ropes": (
        with_config(rope_parameters={"rope_type": "default", "rope_theta": 1e4}, rope_scaling=YARN),
        "rope_scaling is used",
    ),
    "a theta inside": (with_config(rope_parameters={"rope_theta": 500.0}), ""),
    "mscale": (with_config(rope_scaling=YARN | {"mscale": 0.7, "mscale_all_dim": 1.0}), ""),
    "one mscale": (with_config(rope_scaling=YARN | {"mscale": 0.7}), ""),
    "an exact ramp": (with_config(rope_scaling=YARN | {"truncate": False}), ""),
    "an original context outside": (
        with_config(rope_scaling=YARN, original_max_position_embeddings=48),
        "the former is used",
    ),
    "ends the wrong way round": (
        with_config(rope_scaling=YARN | {"beta_fast": 1, "beta_slow": 32}),
        "",
    ),
    "other ends": (with_config(rope_scaling=YARN | {"beta_fast": 16, "beta_slow": 2}), ""),
    "unknown keys": (
        with_config(rope_scaling=YARN | {"finetuned": True}),
        "finetuned, which transformers does not read either",
    ),
    "a quantization_config": (
        with_config(quantization_config={"load_in_4bit": True, "quant_method": "bitsandbytes"}),
        "",
    ),
}


@pytest.mark.parametrize("trait", TRAITS)
def test_logits_are_those_of_transformers(trait: str, tmp_path: Path) -> None:
    change, note = TRAITS[trait]
    change(make(tmp_path / "model"))
    if trait == "a quantization_config":  # transformers wants another package for it
        expected = theirs(make(tmp_path / "plain"))
        assert np.abs(ours(tmp_path / "model") - expected).max() < 1e-4 * np.abs(expected).max()
    else:
        assert_same_logits(tmp_path / "model")
    notes = " ".join(open_checkpoint(tmp_path / "model").notes)
    assert note in notes
    if not note and trait != "a quantization_config":
        assert not notes


NO_ROPE: dict[str, dict[str, Any]] = {
    "linear without a factor": {"rope_type": "linear"},
    "yarn without a factor": {"rope_type": "yarn"},
    "llama3 without its ends": {"rope_type": "llama3", "factor": 2.0},
    "by type of layer": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}},
}


@pytest.mark.parametrize("place", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("case", NO_ROPE)
def test_ropes_that_transformers_does_not_open_are_refused(
    case: str, place: str, tmp_path: Path
) -> None:
    folder = make(tmp_path / "model")
    edit(folder, "config.json", rope_theta=..., **{place: NO_ROPE[case] | {"rope_theta": 1e4}})
    with pytest.raises(KeyError):
        theirs(folder)
    with pytest.raises(EdgequantError, match="asks for rope scaling|has rope settings"):
        open_checkpoint(folder)


PREFIXES = {"base_model.model.": "base_model.model.", "_orig_mod.": "_orig_mod", "": "model."}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_that_only_wraps_is_taken_off(prefix: str, tmp_path: Path) -> None:
    expected = theirs(make(tmp_path / "plain"))
    folder = make(tmp_path / "model")
    if prefix:
        weights(folder, lambda w: {prefix + name: value for name, value in w.items()})
    else:
        weights(folder, lambda w: {n.removeprefix("model."): v for n, v in w.items()})
    assert np.abs(ours(folder) - expected).max() < 1e-4 * np.abs(expected).max()
    assert PREFIXES[prefix] in open_checkpoint(folder).notes[0]


TEXTS = [
    "The <tool_0> and<tool_1>x <|im_end|> a <pad> b",
    "<s>What is </s> 12 <tool_2>?",
    " two  spaces <tool_0><tool_0>",
]


def token(text: str, special: bool = True, **flags: Any) -> dict[str, Any]:
    usual = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
    return usual | {"content": text, "special": special} | flags


def tokens_case(folder: Path, draw: random.Random) -> None:
    """Write the tokenizer's files with what several of them may say."""
    settings = json.loads((bundled() / "tokenizer_config.json").read_text())
    count = draw.randrange(4)
    names = [f"<tool_{i}>" for i in range(count)]
    table = {str(4096 + i): token(name, draw.random() < 0.5) for i, name in enumerate(names)}
    where = draw.choice(["decoder", "decoder", "added", "both", "neither"])
    if where in ("decoder", "both"):
        settings["added_tokens_decoder"] = settings["added_tokens_decoder"] | table
    else:
        settings.pop("added_tokens_decoder")
    if where in ("added", "both"):
        (folder / "added_tokens.json").write_text(
            json.dumps({name: 4096 + i for i, name in enumerate(names)})
        )
    special = ["<s>", "</s>", "<pad>", "<|im_end|>", "<|endoftext|>"]
    for key in ("bos_token", "eos_token", "pad_token", "unk_token"):
        if draw.random() < 0.4:
            settings[key] = draw.choice([None, *special])
    if draw.random() < 0.4:
        settings[draw.choice(["additional_special_tokens", "extra_special_tokens"])] = draw.sample(
            [*special, "<tool_9>"], 2
        )
    if draw.random() < 0.5:
        chosen = {key: draw.choice(special) for key in ("bos_token", "eos_token", "pad_token")}
        some = dict(draw.sample(sorted(chosen.items()), draw.randrange(1, 4)))
        if draw.random() < 0.5:
            some = {key: token(text, True) for key, text in some.items()}
        (folder / "special_tokens_map.json").write_text(json.dumps(some))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


SEEDS, CASES = range(4), 400


@pytest.mark.parametrize("seed", SEEDS)
def test_tokens_of_every_file_are_those_of_transformers(seed: int, tmp_path: Path) -> None:
    draw, refused = random.Random(seed), 0
    folder = make(tmp_path / "model")
    files = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
    for case in range(CASES):
        for file in files:
            (folder / file).unlink(missing_ok=True)
        tokens_case(folder, draw)
        try:
            found = open_checkpoint(folder).tokenizer
        except EdgequantError as error:
            assert "save the tokenizer again" in str(error)
            refused += 1
            continue
        expected = transformers.AutoTokenizer.from_pretrained(folder)
        said = {file: (folder / file).read_text() for file in files if (folder / file).exists()}
        for text in TEXTS:
            ids = expected(text, add_special_tokens=False)["input_ids"]
            assert found.encode(text) == ids, (case, text, said)
        assert found.special.get("bos_token") == expected.bos_token, (case, said)
        assert found.special.get("eos_token") == expected.eos_token, (case, said)
    assert refused <= CASES / 10


def ropes() -> list[dict[str, Any]]:
    """Every pair of what config.json may say twice about rope."""
    scalings: list[Any] = [
        ...,
        None,
        {"type": "linear", "factor": 2.0},
        {"rope_type": "linear", "type": "yarn", "factor": 2.0},
        YARN,
        YARN | {"rope_theta": 2e4},
        {"type": "yarn", "factor": 2.0},
        YARN | {"attention_factor": 1.3, "mscale": 0.7, "mscale_all_dim": 0.5},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        {"rope_type": "default"},
    ]
    tied = [True, False]
    thetas: list[Any] = [..., 3e4]
    return [
        {"rope_scaling": a, "rope_parameters": b, "rope_theta": c, "tie_word_embeddings": d}
        for a, b, c, d in itertools.product(scalings, scalings, thetas, tied)
    ]


@pytest.mark.parametrize("part", range(4))
def test_ropes_are_those_of_transformers(part: int, tmp_path: Path) -> None:
    folder = make(tmp_path / "model", tie_word_embeddings=False)
    refused = 0
    for case in ropes()[part::4]:
        edit(folder, "config.json", **case)
        try:
            found = ours(folder)
        except EdgequantError as error:
            assert "rope_theta" in str(error), (case, error)
            refused += 1
            continue
        expected = theirs(folder)
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max(), case
    assert refused < 15
