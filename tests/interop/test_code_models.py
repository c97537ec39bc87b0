"""Code models: the tokens that mark a file's parts reach llama.cpp."""

import json
from pathlib import Path

import gguf
import pytest

import edgequant
from quantize.checkpoint import open_checkpoint
from runtime.engine import open_engine
from tests.interop.vocabulary import code_tokens
from tests.one_file_models import edit, make

pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install xllamacpp")

SPELLED = {
    "Qwen2.5-Coder": {
        "pre": "<|fim_prefix|>",
        "mid": "<|fim_middle|>",
        "suf": "<|fim_suffix|>",
        "pad": "<|fim_pad|>",
        "rep": "<|repo_name|>",
        "sep": "<|file_sep|>",
    },
    "StarCoder2": {"pre": "<fim_prefix>", "mid": "<fim_middle>", "suf": "<fim_suffix>"},
    "none": {},
}


@pytest.mark.parametrize("name", SPELLED)
def test_tokens_of_fill_in_the_middle_are_those_of_llamacpp(name: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    decoder = settings["added_tokens_decoder"]
    for at, text in enumerate(SPELLED[name].values()):
        decoder[str(4096 + at)] = {"content": text, "special": False}
    edit(folder, "tokenizer_config.json", added_tokens_decoder=decoder)
    made = edgequant.quantize(
        folder, "gguf:Q8_0", tmp_path / "out", method="rtn", check=False
    ).artifacts[0]
    backend = open_checkpoint(folder).tokenizer.backend
    expected = {part: backend.token_to_id(text) for part, text in SPELLED[name].items()}
    fields = gguf.GGUFReader(made.path).fields
    keys = {part: f"tokenizer.ggml.fim_{part}_token_id" for part in ("pre", "suf", "mid")}
    assert {part: fields[key].contents() for part, key in keys.items() if key in fields} == {
        part: index for part, index in expected.items() if part in keys
    }
    found = code_tokens(open_engine(made.path, "llamacpp"))
    assert {part: index for part, index in found.items() if index >= 0} == expected
