"""Where two things in a GGUF disagree: what llama.cpp takes, and what is read here.

The column "llama.cpp" of docs/precedence.md, measured.
"""

from ctypes import c_char_p, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.gguf import write
from quantize.checkpoint import Checkpoint
from runtime.engine import Engine, open_engine
from runtime.errors import EdgequantError
from runtime.gguf_file import open_gguf
from runtime.gguf_special import ENDS, FILLERS, SHOWN
from tests.gguf_made import WIDTH, bytes_alphabet, tiny_gguf
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


OTHERS = ["<|eos|>", "<|im_start|>", "<|endofprompt|>", "END", *sorted(SHOWN)]


@pytest.mark.parametrize("text", OTHERS)
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
    assert (theirs.adds_bos(engine), bool(engine.tokenizer.prefix)) == (added, added)
    assert (theirs.tokenize(engine, "a", add_special=True)[0] == 7) is added


@pytest.mark.parametrize("model", ["gpt2", "llama"])
@pytest.mark.parametrize("said", [True, False, None])
def test_whether_eos_is_added(model: str, said: bool | None, tmp_path: Path) -> None:
    keys = EOS | {"tokenizer.ggml.model": model, "tokenizer.ggml.add_bos_token": False}
    named = {} if said is None else {"tokenizer.ggml.add_eos_token": said}
    engine = opened(tmp_path, [], keys | named)
    assert engine.tokenizer is not None
    assert engine.tokenizer.suffix == ((5,) if said else ())
    for text in ("a", "", "a a"):
        ids = [*engine.tokenizer.encode(text), *engine.tokenizer.suffix]
        assert theirs.tokenize(engine, text, add_special=True) == ids


WIDE = np.random.default_rng(0)
WEIGHTS = {
    f"blk.0.{name}.weight": WIDE.standard_normal((WIDTH, WIDTH)) * 0.6
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
}
EMBEDDING = WIDE.standard_normal((FIRST, WIDTH)) * 0.6
IDS = np.arange(40)[None] * 5 % 256


def logits(path: Path, keys: dict[str, Any], **tensors: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of llama.cpp, and of the numpy engine here, on the same file."""
    found = {f"{name.replace('__', '.')}.weight": values for name, values in tensors.items()}
    weights = {"token_embd.weight": EMBEDDING} | WEIGHTS | found
    tokens = [*bytes_alphabet(), "ab"]
    file = tiny_gguf(path / f"{len(list(path.iterdir()))}.gguf", tokens, EOS | keys, weights)
    engines = open_engine(file, "llamacpp"), open_engine(open_gguf(file), "numpy")
    return tuple(engine.logits(IDS) for engine in engines)


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    """As near as llama.cpp's float16 cache allows; any other rope is off by half or more."""
    return bool(np.linalg.norm(found - expected) < 0.01 * np.linalg.norm(expected))


FOUR = {"type": "linear", "factor": 4.0}
YARN = {"type": "yarn", "factor": 4.0, "original_context_length": 16}
ROPES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"factor": 4.0}, FOUR),
    ({"linear": 4.0}, FOUR),
    ({"factor": 4.0, "linear": 2.0}, FOUR),
    ({"type": "linear", "linear": 4.0}, FOUR),
    ({"type": "none", "factor": 4.0}, {}),
    ({"type": "linear"}, {}),
    ({"factor": 0.0}, {}),
    (YARN | {"yarn_beta_fast": 8.0, "yarn_beta_slow": 0.05}, YARN),
    (YARN | {"yarn_attn_factor": 1.5}, YARN),
    ({"type": "yarn", "factor": 4.0}, YARN | {"original_context_length": 64}),
]


@pytest.mark.parametrize(("said", "taken"), ROPES)
def test_of_rope_keys_that_disagree(
    said: dict[str, Any], taken: dict[str, Any], tmp_path: Path
) -> None:
    def keys(scaling: dict[str, Any]) -> dict[str, Any]:
        named = {f"llama.rope.scaling.{key}": value for key, value in scaling.items()}
        if "linear" in scaling:
            named["llama.rope.scale_linear"] = named.pop("llama.rope.scaling.linear")
        return named

    foreign, ours = logits(tmp_path, keys(said))
    assert close(foreign, logits(tmp_path, keys(taken))[0])
    assert close(ours, foreign)
    assert not close(foreign, logits(tmp_path, keys(FOUR if taken != FOUR else {}))[0])


@pytest.mark.parametrize(
    "keys",
    [
        {"llama.vocab_size": 100},
        {"llama.vocab_size": 1000},
        {"llama.context_length": 8},
        {"llama.attention.sliding_window": 4},
        {"tokenizer.ggml.token_type": None},
        {"llama.attention.head_count_kv": None},
        {"llama.attention.scale": 0.5, "llama.logit_scale": 0.5, "llama.embedding_scale": 0.5},
    ],
    ids=lambda keys: " ".join(keys),
)
def test_keys_that_change_nothing_in_a_llama(keys: dict[str, Any], tmp_path: Path) -> None:
    foreign, ours = logits(tmp_path, keys)
    assert close(foreign, logits(tmp_path, {})[0])
    assert close(ours, foreign)


def test_llamacpp_obeys_attention_that_is_not_causal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"llama.attention.causal": False}
    with pytest.raises(EdgequantError, match="sets llama.attention.causal to false"):
        logits(tmp_path, keys)
    plain = logits(tmp_path, {"llama.attention.causal": True})[0]
    assert close(plain, logits(tmp_path, {})[0])
    monkeypatch.setattr("runtime.archs.gguf_sizes.check_causal", lambda keys: None)
    assert not close(logits(tmp_path, keys)[0], plain)


def test_a_head_that_the_file_holds_is_the_head(tmp_path: Path) -> None:
    """No key says tied: it is what a file without a head is."""
    head = WIDE.standard_normal((FIRST, WIDTH))
    foreign, ours = logits(tmp_path, {}, output=head)
    assert close(ours, foreign)
    assert not close(foreign, logits(tmp_path, {})[0])


MISFITS: list[tuple[dict[str, Any], dict[str, np.ndarray]]] = [
    ({"llama.attention.key_length": 8, "llama.attention.value_length": 8}, {}),
    ({"llama.attention.head_count_kv": 1}, {}),
    ({"llama.block_count": 2}, {}),
    ({"llama.feed_forward_length": 64}, {}),
    ({}, {"blk.0.foo.weight": np.ones((WIDTH, WIDTH))}),
]


@pytest.mark.parametrize(("keys", "tensors"), MISFITS)
def test_sizes_that_tensors_do_not_have_are_refused_by_both(
    keys: dict[str, Any], tensors: dict[str, np.ndarray], tmp_path: Path
) -> None:
    file = tiny_gguf(tmp_path / "x.gguf", [*bytes_alphabet(), "ab"], EOS | keys, tensors)
    with pytest.raises(EdgequantError, match="llama.cpp cannot load"):
        open_engine(file, "llamacpp")
    with pytest.raises(EdgequantError, match="convert the model again|would change the model"):
        open_gguf(file)


def test_the_default_template_is_the_one_without_a_name(tmp_path: Path) -> None:
    named = {"tokenizer.chat_templates": ["tool_use"], "tokenizer.chat_template.tool_use": "named"}
    engine: Any = opened(tmp_path, [], EOS | named | {"tokenizer.chat_template": "plain"})
    template = engine.library.llama_model_chat_template
    template.restype, template.argtypes = c_char_p, (c_void_p, c_char_p)
    assert template(engine.model, None) == b"plain" == engine.tokenizer.chat_template.encode()
    assert template(engine.model, b"tool_use") == b"named"


PHI = ["</s>", "<unk>", "<s>", "<|endoftext|>", "<|x|>"]


@pytest.mark.parametrize("name", ["Phi-3 mini", "my-phi3", "phi 3", "a model"])
def test_a_name_of_phi_3_takes_spaces_after_special_tokens(name: str, tmp_path: Path) -> None:
    """Of a Llama too: llama.cpp knows such a model by general.name alone."""
    engine = opened(tmp_path, PHI, EOS | {"general.name": name}, [3] * 5)
    texts = [f"a{token}  b" for token in PHI]
    same(engine, *texts)
    stripped = [len(theirs.tokenize(engine, text)) == 3 for text in texts]
    taken = name in ("Phi-3 mini", "my-phi3")
    assert stripped == [taken, False, False, False, taken]


@pytest.mark.parametrize("name", ["Phi-3-mini", "my_PHI3", "Phi-3 and phi3", "modern-bert-llama"])
def test_the_name_of_a_model_changes_nothing(name: str, tiny: Checkpoint, tmp_path: Path) -> None:
    """Written so that llama.cpp sees no other model's name in it."""
    write(tmp_path / "x.gguf", tiny.arch, tiny.tensors.values(), tiny.folder, {"model": name})
    engine = open_engine(tmp_path / "x.gguf", "llamacpp")
    for text in ("a<|im_end|>  b", "<|im_start|> \n x"):
        assert theirs.tokenize(engine, text) == tiny.tokenizer.encode(text)
