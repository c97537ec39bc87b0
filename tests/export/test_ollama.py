"""The Modelfile of a GGUF file, line by line."""

import json
from pathlib import Path
from typing import Any

import pytest

from export import ollama
from export.gguf import write
from quantize.checkpoint import bundled, open_checkpoint
from runtime.errors import UnsupportedError
from tests.chat_templates_made import BRACKETS, CHATML, CUT, UNSAID
from tests.conftest import CONFIGS, SIZES
from tests.random_checkpoint import random_checkpoint
from tests.small_models import rounded

NO_SAMPLING = "# The model does not ask for sampling, so ollama's own settings hold."


def lines_of(root: Path, template: str | None, name: str = "m.gguf", **asked: Any) -> list[str]:
    """The lines for a random model with this chat template and generation_config.json."""
    folder = root / "model"
    random_checkpoint(folder, SIZES | CONFIGS["qwen2-tied"], bundled())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"chat_template": template, "bos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 4095} | asked))
    checkpoint = open_checkpoint(folder)
    tensors = rounded(checkpoint, "Q8_0")
    write(root / name, checkpoint.arch, tensors, folder, {"model": "model"})
    return ollama.modelfile(root / name).splitlines()


def test_a_model_that_is_sampled_says_all_that_ollama_would_set_otherwise(tmp_path: Path) -> None:
    drawn = {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05}
    assert lines_of(tmp_path, CHATML, do_sample=True, **drawn) == [
        "# Made by edgequant for ollama: ollama create m -f m.Modelfile",
        "FROM ./m.gguf",
        'TEMPLATE """{{ range .Messages }}{{ if eq .Role "system" }}<|im_start|>system',
        "{{ .Content }}<|im_end|>",
        '{{ else if eq .Role "user" }}<|im_start|>user',
        "{{ .Content }}<|im_end|>",
        '{{ else if eq .Role "assistant" }}<|im_start|>assistant',
        "{{ .Content }}<|im_end|>",
        "{{ end }}{{ end }}<|im_start|>assistant",
        '"""',
        'PARAMETER stop "<|im_end|>"',
        'PARAMETER stop "<|endoftext|>"',
        "PARAMETER temperature 0.7",
        "PARAMETER top_k 20",
        "PARAMETER top_p 0.8",
        "PARAMETER min_p 0",
        "PARAMETER repeat_penalty 1.05",
        "PARAMETER repeat_last_n -1",
        "# It reads up to 256 tokens; ollama makes room for fewer where memory is short.",
        "# PARAMETER num_ctx 256",
    ]


def test_a_model_that_is_not_sampled_leaves_ollamas_settings_aloud(tmp_path: Path) -> None:
    lines = lines_of(tmp_path, CHATML, temperature=0.1)
    assert NO_SAMPLING in lines
    assert not any("temperature" in line for line in lines)


def test_a_chat_template_that_no_go_template_says_asks_for_a_version_that_runs_it(
    tmp_path: Path,
) -> None:
    lines = lines_of(tmp_path, UNSAID["thoughts are cut"])
    assert lines[2:4] == [
        "# No Go template says what the chat template does; ollama runs that of the file.",
        "REQUIRES 0.30.0",
    ]
    assert not any(line.startswith("TEMPLATE") for line in lines)


@pytest.mark.parametrize(
    ("template", "note"), [(CUT, ollama.CUTS), (BRACKETS, ollama.NO_SYSTEM)], ids=["cuts", "system"]
)
def test_what_a_go_template_does_otherwise_is_said_above_it(
    template: str, note: str, tmp_path: Path
) -> None:
    lines = lines_of(tmp_path, template)
    assert lines[2] == note
    assert lines[3].startswith('TEMPLATE """')


@pytest.mark.parametrize(
    "text", ["{{ '{{' }}", '{{ \'"""\' }}', "\u200b"], ids=["braces", "quotes", "unprintable"]
)
def test_texts_that_a_modelfile_cannot_hold_are_not_put_there(text: str, tmp_path: Path) -> None:
    assert "REQUIRES 0.30.0" in lines_of(tmp_path, text + CHATML)


def test_a_model_without_a_chat_template_reads_texts_as_they_are(tmp_path: Path) -> None:
    lines = lines_of(tmp_path, None)
    assert lines[2:4] == ["# The model has no chat template.", 'TEMPLATE "{{ .Prompt }}"']


def test_a_name_of_two_words_stays_one_file(tmp_path: Path) -> None:
    lines = lines_of(tmp_path, CHATML, name="My model-Q8_0.gguf")
    assert lines[:2] == [
        "# Made by edgequant for ollama: ollama create my-model-q8_0 -f 'My model-Q8_0.Modelfile'",
        "FROM ./My model-Q8_0.gguf",
    ]


def test_a_name_that_no_modelfile_can_say_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"cannot say 'a\\nb.gguf'; rename the file"):
        ollama.modelfile(tmp_path / "a\nb.gguf")
