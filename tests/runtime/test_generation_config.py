"""Which file says how a model is sampled; tests/interop/test_sampling.py asks transformers."""

import json
from pathlib import Path
from typing import Any

import gguf
import pytest

from export.genai import small_files
from export.gguf_general import general
from quantize.checkpoint import Checkpoint
from runtime import generation_config
from runtime.errors import CorruptFileError

DRAWN = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8}


def write(folder: Path, file: str, **said: Any) -> None:
    (folder / file).write_text(json.dumps(said))


def test_generation_config_counts_alone_where_it_is_there(tmp_path: Path) -> None:
    write(tmp_path, "config.json", do_sample=True, temperature=0.5, top_k=50)
    assert generation_config.sampling(tmp_path) == generation_config.DEFAULTS | {
        "do_sample": True,
        "temperature": 0.5,
    }
    assert generation_config.notes(tmp_path) == []
    write(tmp_path, "generation_config.json", eos_token_id=1, top_p=None)
    assert generation_config.sampling(tmp_path) == generation_config.DEFAULTS
    (note,) = generation_config.notes(tmp_path)
    assert "do_sample, temperature of config.json not" in note
    write(tmp_path, "config.json", do_sample=False, temperature=1.0, top_k=50)
    write(tmp_path, "generation_config.json", **DRAWN)
    assert generation_config.notes(tmp_path) == []
    write(tmp_path, "config.json", top_k=-1)  # nobody reads it
    assert generation_config.sampling(tmp_path)["top_k"] == 20
    assert "top_k of config.json not" in generation_config.notes(tmp_path)[0]


def test_nothing_said_is_what_transformers_takes(tmp_path: Path) -> None:
    assert generation_config.sampling(tmp_path) == generation_config.DEFAULTS


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
@pytest.mark.parametrize(
    ("key", "value"),
    [("top_p", 0), ("top_p", 1.5), ("top_k", -1), ("top_k", 2.5), ("min_p", -0.1)]
    + [("temperature", -1), ("temperature", "1"), ("repetition_penalty", 0), ("do_sample", 1)],
)
def test_a_value_out_of_range_names_its_file_and_field(
    key: str, value: Any, file: str, tmp_path: Path
) -> None:
    write(tmp_path, file, **{key: value})
    with pytest.raises(CorruptFileError, match=rf"{file}: {key} is not what it must be \(.+\)"):
        generation_config.sampling(tmp_path)


def test_gguf_says_it_under_the_names_of_llamacpp(tiny: Checkpoint, tmp_path: Path) -> None:
    keys = gguf.Keys.General
    write(tmp_path, "generation_config.json", **DRAWN, repetition_penalty=1.05, min_p=0.1)
    found = general(tiny.arch, tmp_path, {})
    assert {key: value for key, value in found.items() if "sampling" in key} == {
        keys.SAMPLING_TEMP: 0.7,
        keys.SAMPLING_TOP_K: 20,
        keys.SAMPLING_TOP_P: 0.8,
        keys.SAMPLING_MIN_P: 0.1,
        keys.SAMPLING_PENALTY_REPEAT: 1.05,
        keys.SAMPLING_PENALTY_LAST_N: -1,
    }
    write(tmp_path, "generation_config.json", temperature=0.7, top_k=20)
    assert not any("sampling" in key for key in general(tiny.arch, tmp_path, {}))


def test_what_genai_does_not_have_is_left_out_and_said(tiny: Checkpoint, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((tiny.folder / name).read_bytes())
    write(tmp_path, "generation_config.json", **DRAWN, min_p=0.1, num_beams=4)
    search = json.loads(small_files(tiny.arch, tmp_path)["genai_config.json"])["search"]
    assert "min_p" not in search and search["num_beams"] == 1
    assert {key: search[key] for key in DRAWN} == DRAWN
    beams, note = generation_config.notes(tmp_path)
    assert beams == "a GGUF file leaves out num_beams, which transformers heeds"
    assert "leaves out min_p, num_beams beside do_sample" in note


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_what_no_artifact_says_is_told(file: str, tmp_path: Path) -> None:
    write(tmp_path, file, no_repeat_ngram_size=3, suppress_tokens=[5], typical_p=0.5)
    (note,) = generation_config.notes(tmp_path)
    assert note.startswith("no artifact says no_repeat_ngram_size, suppress_tokens, which")
    write(tmp_path, file, do_sample=True, no_repeat_ngram_size=0, typical_p=0.5)
    (note,) = generation_config.notes(tmp_path)
    assert note.startswith("no artifact says typical_p, which")


def test_what_gguf_leaves_out_of_a_greedy_model_is_told(tmp_path: Path) -> None:
    write(tmp_path, "generation_config.json", repetition_penalty=1.2, min_length=5)
    (note,) = generation_config.notes(tmp_path)
    assert note.startswith("a GGUF file leaves out min_length, repetition_penalty, which")
    write(tmp_path, "generation_config.json", do_sample=True, repetition_penalty=1.2)
    assert generation_config.notes(tmp_path) == []
