"""How a model wants to be sampled: as transformers reads it, and as other engines then do it."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch

from export.genai import small_files
from export.gguf import write as write_gguf
from export.onnx import write as write_onnx
from quantize.checkpoint import bundled, open_checkpoint
from runtime import generation_config
from runtime.errors import CorruptFileError
from tests.conftest import CONFIGS, SIZES
from tests.interop.llama_servers import serving
from tests.random_checkpoint import random_checkpoint
from tests.small_models import rounded

pytestmark = pytest.mark.slow

DRAWN = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8}
OLD = {"do_sample": True, "temperature": 0.5, "top_k": 3, "repetition_penalty": 1.2}

SAID: dict[str, tuple[dict[str, Any] | None, dict[str, Any]]] = {
    "nothing": (None, {}),
    "an empty file": ({}, {}),
    "drawn": (DRAWN | {"repetition_penalty": 1.05}, {}),
    "drawn with usual values": ({"do_sample": True}, {}),
    "min_p": ({"do_sample": True, "min_p": 0.1}, {}),
    "a temperature without do_sample": ({"temperature": 0.7, "top_k": 20}, {}),
    "temperature 0": ({"do_sample": False, "temperature": 0.0}, {}),
    "all tokens": ({"do_sample": True, "top_k": 0}, {}),
    "more tokens than there are": ({"do_sample": True, "top_k": 100_000}, {}),
    "nulls": (dict.fromkeys(DRAWN), {}),
    "beams": ({"num_beams": 4}, {}),
    "an old config.json": (None, OLD),
    "an old config.json beside the file": ({"eos_token_id": 4095}, OLD),
    "both": (DRAWN, OLD),
}
"""What generation_config.json and config.json say."""


def folder_of(root: Path, said: dict[str, Any] | None, older: dict[str, Any]) -> Path:
    folder = root / "model"
    random_checkpoint(folder, SIZES | CONFIGS["qwen2-tied"] | older, bundled())
    (folder / generation_config.FILE).unlink()
    if said is not None:
        (folder / generation_config.FILE).write_text(json.dumps(said))
    return folder


@pytest.mark.parametrize("case", SAID)
def test_sampling_is_that_of_transformers(case: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = folder_of(tmp_path, *SAID[case])
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    # what generate() does with the files and no arguments; there is no public name for it
    asked, _ = model._prepare_generation_config(None)
    expected = {key: getattr(asked, key) or 0 for key in generation_config.DEFAULTS}
    assert generation_config.sampling(folder) == expected


BAD = [
    {"do_sample": True, "top_k": -1},
    {"repetition_penalty": 0.0},
    {"repetition_penalty": -1.0},
    {"do_sample": True, "min_p": 2.0},
    {"do_sample": True, "temperature": "0.7"},
    {"do_sample": True, "temperature": -1.0},
]


@pytest.mark.parametrize("place", [generation_config.FILE, generation_config.OLDER])
@pytest.mark.parametrize("said", BAD, ids=str)
def test_what_transformers_does_not_draw_with_is_refused(
    said: dict[str, Any], place: str, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    older = place == generation_config.OLDER
    folder = folder_of(tmp_path, None if older else said, said if older else {})
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with pytest.raises(ValueError):
        model.generate(torch.arange(5)[None], max_new_tokens=2)
    with pytest.raises(CorruptFileError, match=f"{place}: {list(said)[-1]} is not what it must"):
        open_checkpoint(folder)


@pytest.mark.parametrize("case", SAID)
def test_onnxruntime_genai_takes_what_is_written(case: str, tmp_path: Path) -> None:
    og = pytest.importorskip("onnxruntime_genai")
    checkpoint = open_checkpoint(folder_of(tmp_path, *SAID[case]))
    asked = generation_config.sampling(checkpoint.folder)
    search = json.loads(small_files(checkpoint.arch, checkpoint.folder)["genai_config.json"])[
        "search"
    ]
    kept = set(generation_config.DEFAULTS) - {"min_p", "top_k"}
    assert {key: search[key] for key in kept} == {key: asked[key] for key in kept}
    assert search["top_k"] == min(asked["top_k"], checkpoint.arch.vocab)
    path = tmp_path / "made"
    write_onnx(path, checkpoint.arch, rounded(checkpoint, "INT8_32"), checkpoint.folder, {})
    params = og.GeneratorParams(model := og.Model(str(path)))
    params.set_search_options(max_length=8)
    generator = og.Generator(model, params)
    generator.append_tokens([300, 301, 302, 303])
    while not generator.is_done():
        generator.generate_next_token()
    assert len(generator.get_sequence(0)) > 4


LLAMACPP = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
}
"""A setting's name here and in llama.cpp's server."""


@pytest.mark.parametrize("case", SAID)
def test_llamacpp_samples_as_the_file_says(case: str, tmp_path: Path) -> None:
    llama = pytest.importorskip("xllamacpp")
    checkpoint = open_checkpoint(folder_of(tmp_path, *SAID[case]))
    path = tmp_path / "made.gguf"
    write_gguf(path, checkpoint.arch, rounded(checkpoint, "Q8_0"), checkpoint.folder, {})
    asked, params = generation_config.sampling(checkpoint.folder), llama.CommonParams()
    usual = {name: getattr(params.sampling, key) for name, key in OWN.items()}
    settings = {"model__path": str(path), "n_ctx": 64, "cpuparams__n_threads": 1}
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with serving(**settings) as address, direct.open(f"{address}/props") as answer:
        found = json.load(answer)["default_generation_settings"]["params"]
    expected = asked if asked["do_sample"] else usual
    for name, theirs in LLAMACPP.items():
        assert found[theirs] == pytest.approx(expected[name], abs=1e-6)
    if asked["do_sample"] and asked["repetition_penalty"] != 1:
        assert found["repeat_last_n"] == -1


OWN = {
    "temperature": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "penalty_repeat",
}
"""A setting's name here and in llama.cpp's own settings."""


HEEDED: dict[str, Any] = {
    "bad_words_ids": [[5]],
    "begin_suppress_tokens": [5],
    "encoder_no_repeat_ngram_size": 2,
    "encoder_repetition_penalty": 1.5,
    "epsilon_cutoff": 0.1,
    "eta_cutoff": 0.1,
    "exponential_decay_length_penalty": [2, 1.5],
    "forced_bos_token_id": 5,
    "forced_eos_token_id": 5,
    "guidance_scale": 2.0,
    "min_new_tokens": 2,
    "no_repeat_ngram_size": 2,
    "repetition_penalty": 1.5,
    "sequence_bias": [[[5], -10.0]],
    "suppress_tokens": [5],
    "top_h": 0.5,
    "typical_p": 0.5,
    "watermarking_config": {"bias": 2.0},
}
"""A value of each setting that changes what transformers generates."""


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("key", HEEDED)
def test_what_transformers_heeds_and_an_artifact_leaves_out_is_told(
    key: str, drawn: bool, one_model: Any, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    plain = {"do_sample": drawn, "top_k": 0}
    counts = []
    for said in (plain, plain | {key: HEEDED[key]}):
        asked, _ = one_model._prepare_generation_config(transformers.GenerationConfig(**said))
        one_model._prepare_special_tokens(asked)
        ids = torch.arange(5)[None]
        asked.max_length = 20
        counts.append(len(one_model._get_logits_processor(asked, 5, encoder_input_ids=ids)))
    (tmp_path / generation_config.FILE).write_text(json.dumps(said))
    told = " ".join(generation_config.notes(tmp_path))
    carried = drawn and key == "repetition_penalty"
    assert (key in told) == (counts[1] > counts[0] and not carried)


@pytest.fixture(scope="module")
def one_model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    transformers = pytest.importorskip("transformers")
    folder = folder_of(tmp_path_factory.mktemp("heeded"), {"eos_token_id": 4095}, {})
    return transformers.AutoModelForCausalLM.from_pretrained(folder)


def test_every_setting_that_no_artifact_says_is_compared() -> None:
    named = {*generation_config.UNWRITTEN, *generation_config.UNWRITTEN_DRAWN}
    assert named - set(HEEDED) == {"stop_strings"}  # it is no processor of logits
