"""Where two things in a GGUF disagree: what llama.cpp takes, and what is read here.

The column "llama.cpp" of docs/precedence.md, measured.
"""

from pathlib import Path
from typing import Any

import pytest

from runtime.engine import Engine, open_engine
from runtime.gguf_special import ENDS, FILLERS, SHOWN
from tests.gguf_made import bytes_alphabet, tiny_gguf
from tests.interop import vocabulary as theirs

pytest.importorskip(
    "xllamacpp", reason="xllamacpp is not installed: pip install 'edgequant[interop]'"
)

EOS = {"tokenizer.ggml.eos_token_id": 5}
"""A key that names the token of one character, so that texts are all that adds to it."""
FIRST = 257
"""Id of the first token after the bytes and the only merge."""
FILLED = sorted({text for texts in FILLERS.values() for text in texts})


def opened(
    path: Path, extra: list[str], keys: dict[str, Any], types: list[int] | None = None
) -> Engine:
    """llama.cpp on a file of the bytes, a merge and `extra`, of types `types`."""
    plain = keys.get("tokenizer.ggml.model") == "llama"
    tokens = [f"<0x{byte:02X}>" for byte in range(256)] if plain else bytes_alphabet()
    tokens.append("ab")
    if plain:
        keys = keys | {"tokenizer.ggml.scores": [0.0] * (FIRST + len(extra))}
    tokens, kinds = [*tokens, *extra], [6 if plain else 1] * 256 + [1] + (types or [1] * len(extra))
    return open_engine(tiny_gguf(path / "x.gguf", tokens, keys, types=kinds), "llamacpp")


def same(engine: Engine, *texts: str) -> set[int]:
    """The ids at which both stop; tokens of the texts are the same too."""
    assert engine.tokenizer is not None
    assert set(engine.tokenizer.eos) == theirs.ends(engine)
    for text in texts:
        assert engine.tokenizer.encode(text) == theirs.tokenize(engine, text)
    return theirs.ends(engine)


@pytest.mark.parametrize("text", [*sorted(ENDS), *FILLED])
def test_a_token_ends_a_text_because_of_what_it_says(text: str, tmp_path: Path) -> None:
    """Whatever its type: a plain word, or one that the file marks."""
    for kind in (1, 3, 4):
        engine = opened(tmp_path, [text], EOS, [kind])
        assert same(engine, f"a{text}b", f" {text} ") == {5, FIRST}


@pytest.mark.parametrize("text", ["<|eos|>", "<|im_start|>", "<|endofprompt|>", "END", *SHOWN])
def test_other_texts_end_nothing(text: str, tmp_path: Path) -> None:
    assert same(opened(tmp_path, [text], EOS), f"a{text}b") == {5}


KEYS = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep", "fim_pre", "unknown", "padding")


@pytest.mark.parametrize("name", KEYS)
def test_which_keys_name_ends(name: str, tmp_path: Path) -> None:
    engine = opened(tmp_path, [], EOS | {f"tokenizer.ggml.{name}_token_id": 7})
    named = {"eos": {7}} | dict.fromkeys(KEYS[1:6], {5, 7})
    assert same(engine) == named.get(name, {5})


@pytest.mark.parametrize(
    ("texts", "inside"),
    [
        (["<|end|>", "<|return|>", "<|call|>"], "<|end|>"),
        (["<|end|>", "<|flush|>", "<|calls|>"], "<|end|>"),
        (["<|end|>", "<|return|>", "<|flush|>"], ""),
        (["</s>", "<|tool_response>"], "</s>"),
    ],
)
def test_some_texts_end_a_part_only_beside_others(
    texts: list[str], inside: str, tmp_path: Path
) -> None:
    """Even where the key names them."""
    engine = opened(tmp_path, texts, {"tokenizer.ggml.eos_token_id": FIRST}, [3] * len(texts))
    ends = {FIRST + at for at, text in enumerate(texts) if text != inside}
    assert same(engine, *(f"a{text}b" for text in texts)) == ends


def test_a_key_and_a_text_of_code_models(tmp_path: Path) -> None:
    """The key wins, and the token of the text stays a word."""
    keys = EOS | {"tokenizer.ggml.fim_pad_token_id": 8}
    assert same(opened(tmp_path, ["<|fim_pad|>"], keys), "a<|fim_pad|>b") == {5, 8}


@pytest.mark.parametrize(("model", "ids"), [("gpt2", (11, 11)), ("llama", (1, 2))])
def test_ids_that_no_key_names(model: str, ids: tuple[int, int], tmp_path: Path) -> None:
    keys = {
        "tokenizer.ggml.model": model,
        "tokenizer.ggml.add_bos_token": True,
    }
    engine = opened(tmp_path, [], keys)
    assert engine.tokenizer is not None
    assert (theirs.bos(engine), theirs.eos(engine)) == ids
    assert (engine.tokenizer.bos, engine.tokenizer.eos) == (ids[0], (ids[1],))
    assert same(engine) == {ids[1]}


@pytest.mark.parametrize(
    ("keys", "added"),
    [
        ({"model": "gpt2"}, False),
        ({"model": "gpt2", "pre": "llama-bpe"}, True),
        ({"model": "gpt2", "pre": "llama-bpe", "add_bos_token": False}, False),
        ({"model": "llama"}, True),
        ({"model": "llama", "add_bos_token": False}, False),
    ],
)
def test_whether_bos_is_added(keys: dict[str, Any], added: bool, tmp_path: Path) -> None:
    named = {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    engine = opened(tmp_path, [], EOS | named | {"tokenizer.ggml.bos_token_id": 7})
    assert engine.tokenizer is not None
    assert (theirs.adds_bos(engine), engine.tokenizer.add_bos) == (added, added)
    assert (theirs.tokenize(engine, "a", add_special=True)[0] == 7) is added
