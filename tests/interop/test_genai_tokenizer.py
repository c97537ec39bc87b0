"""onnxruntime-genai's own tokenizer: ids of the tokenizers library, or a note before any work."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers

import edgequant
from export import genai_tokenizer
from quantize.report.torture import TORTURE
from runtime.pre_tokenizers import PRE_TOKENIZERS, UNLIKE
from runtime.tokenizer import Tokenizer
from tests import tokenizers_made
from tests.one_file_models import make
from tests.traits import WIDE

og = pytest.importorskip(
    "onnxruntime_genai", reason="onnxruntime-genai is missing: pip install 'edgequant[interop]'"
)

Opens = Callable[[tokenizers.Tokenizer, str], Any]
Backend = tokenizers.Tokenizer
GPT2 = PRE_TOKENIZERS["gpt-2"].patterns[0]
QWEN2 = PRE_TOKENIZERS["qwen2"].patterns[0]
LLAMA3 = PRE_TOKENIZERS["llama-bpe"].patterns[0]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX folder; its tokenizer is changed by every test."""
    folder = tmp_path_factory.mktemp("genai")
    make(folder / "model", **WIDE)
    settings: dict[str, Any] = {"output": folder / "out", "method": "rtn", "check": False}
    return edgequant.quantize(folder / "model", "onnx:fp32", **settings).artifacts[0].path


def ids(opened: Any, text: str) -> list[int]:
    try:
        return [int(token) for token in opened.encode(text)]
    except RuntimeError:  # of a rule that it does not know
        return []


def same(artifact: Path, backend: Backend, name: str = "TokenizersBackend", **config: Any) -> bool:
    """Whether genai opens a tokenizer and gives its ids; asserts that a note says what it does."""
    backend.save(str(artifact / "tokenizer.json"))
    config |= {"tokenizer_class": name, "eos_token": "<|im_end|>"}
    (artifact / "tokenizer_config.json").write_text(json.dumps(config))
    notes = genai_tokenizer.notes(Tokenizer(backend), artifact, TORTURE)
    assert len(notes) < 2
    try:
        opened = og.Tokenizer(og.Model(str(artifact)))
    except RuntimeError:
        assert "does not know" in notes[0]
        return False
    added = [token.content for token in backend.get_added_tokens_decoder().values()]
    texts = [*TORTURE[1:], *(form.format(t) for t in added for form in ("a{}b", "a {} b", "{}"))]
    other = [t for t in texts if ids(opened, t) != backend.encode(t, add_special_tokens=False).ids]
    assert bool(other) == bool(notes), (other, notes)
    return not other


def with_steps(*steps: Any) -> Backend:
    """A byte-level BPE whose pre-tokenizer has some steps."""
    backend = tokenizers_made.byte_level()
    backend.pre_tokenizer = pre_tokenizers.Sequence(list(steps)) if steps[1:] else steps[0]
    return backend


def split(pattern: str, behavior: str = "isolated", invert: bool = False) -> Any:
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def by_bytes(regex: bool = False, prefix: bool = False) -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)


def with_normalizer(normalizer: Any) -> Backend:
    backend = tokenizers_made.byte_level(gpt2=True)
    backend.normalizer = normalizer
    return backend


def with_token(**flags: Any) -> Backend:
    backend = tokenizers_made.byte_level(gpt2=True)
    backend.add_tokens([AddedToken("<|tool|>", **({"special": True, "normalized": False} | flags))])
    return backend


def with_model(backend: Backend, merges: int | None = None, **settings: Any) -> Backend:
    """Other settings of the model, and only some of its merges."""
    facts = json.loads(backend.to_str())
    facts["model"] |= settings | {"merges": facts["model"]["merges"][:merges]}
    return Backend.from_str(json.dumps(facts))


RIGHT = {*genai_tokenizer.RULES, "deepseek-r1-qwen", "dbrx", "glm4"} - {"qwen2", "qwen35"}
"""The rest of the names of GGUF's pre-tokenizers is read otherwise, these two for NFC alone."""


@pytest.mark.parametrize("kind", tokenizers_made.KINDS)
def test_rules_for_words(artifact: Path, kind: str) -> None:
    backend = tokenizers_made.byte_level(**tokenizers_made.KINDS[kind])
    assert same(artifact, backend) == (kind in RIGHT)
    backend.normalizer = normalizers.Sequence([])
    assert same(artifact, backend) == (kind in RIGHT | {"qwen2", "qwen35"})


CASES: dict[str, tuple[bool, Callable[[], Backend]]] = {
    "capitals": (True, lambda: with_steps(split(next(iter(UNLIKE))[0]), by_bytes())),
    "removed": (True, lambda: with_steps(split(LLAMA3, "removed", True), by_bytes())),
    "merged": (True, lambda: with_steps(split(LLAMA3, "merged_with_next"), by_bytes())),
    "spelled out": (
        True,
        lambda: with_steps(
            split(QWEN2.replace(genai_tokenizer.ENGLISH, genai_tokenizer.SPELLED_OUT)), by_bytes()
        ),
    ),
    "bytes": (True, lambda: with_steps(by_bytes(regex=True))),
    "bytes, no rule": (False, lambda: with_steps(by_bytes())),
    "bytes after a space": (False, lambda: with_steps(by_bytes(regex=True, prefix=True))),
    "no bytes": (False, lambda: with_steps(split(QWEN2))),
    "rule, then a space": (False, lambda: with_steps(split(LLAMA3), by_bytes(prefix=True))),
    "a plain string": (
        False,
        lambda: with_steps(pre_tokenizers.Split(" ", "isolated"), by_bytes()),
    ),
    "punctuation": (False, lambda: with_steps(pre_tokenizers.Punctuation(), by_bytes(regex=True))),
    "white space": (False, lambda: with_steps(pre_tokenizers.Whitespace(), by_bytes())),
    "digits": (False, lambda: with_steps(pre_tokenizers.Digits(True), by_bytes(regex=True))),
    "fixed length": (False, lambda: with_steps(pre_tokenizers.FixedLength(5), by_bytes())),
    "no normalizer": (True, lambda: with_normalizer(normalizers.Sequence([]))),
    "NFC": (False, lambda: with_normalizer(normalizers.NFC())),
    "NFKC": (False, lambda: with_normalizer(normalizers.NFKC())),
    "lower case": (False, tokenizers_made.lower_case),
    "strip": (False, lambda: with_normalizer(normalizers.Strip())),
    "replace": (False, lambda: with_normalizer(normalizers.Replace("e", "a"))),
    "prepend": (False, lambda: with_normalizer(normalizers.Prepend("x"))),
    "token": (True, with_token),
    "plain token": (True, lambda: with_token(special=False)),
    "normalized token": (True, lambda: with_token(normalized=True)),
    "rstrip": (True, lambda: with_token(rstrip=True)),
    "lstrip": (False, lambda: with_token(lstrip=True)),
    "single word": (False, lambda: with_token(single_word=True)),
    "words without merges": (
        True,
        lambda: with_model(tokenizers_made.byte_level(gpt2=True), -30, ignore_merges=True),
    ),
    "words that need merges": (
        False,
        lambda: with_model(tokenizers_made.byte_level(gpt2=True), -30, ignore_merges=False),
    ),
    "no byte fallback": (
        False,
        lambda: with_model(tokenizers_made.sentencepiece(), byte_fallback=False),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_features(artifact: Path, name: str) -> None:
    right, backend = CASES[name]
    assert same(artifact, backend()) == right


def test_another_model_than_bpe_is_never_given_to_it(artifact: Path) -> None:
    found = Tokenizer(tokenizers_made.word_pieces())  # opening it may end the process
    (note,) = genai_tokenizer.notes(found, artifact, TORTURE)
    assert "does not know a WordPiece tokenizer" in note


def within_words(prefix: str, spaces: bool = False) -> Backend:
    """A sentencepiece BPE that joins no letters, digits and marks; with `spaces`, two spaces."""
    facts, cut = json.loads(tokenizers_made.sentencepiece(prefix).to_str()), split(LLAMA3)
    vocab, merges = facts["model"]["vocab"], facts["model"]["merges"]
    joined = {left + right for left, right in merges}
    cuts = {w for w in joined if w[0] == "'" or cut.pre_tokenize_str(w.replace("▁", " "))[1:]}
    facts["model"]["merges"] = [[a, b] for a, b in merges if not {a, b, a + b} & cuts]
    facts["model"]["vocab"] = {f"<{i}>" if word in cuts else word: i for word, i in vocab.items()}
    if spaces:
        facts["model"]["vocab"]["▁▁"] = len(vocab)
        facts["model"]["merges"].insert(0, ["▁", "▁"])
    return Backend.from_str(json.dumps(facts))


@pytest.mark.parametrize("prefix", ["prepend", "none", "first", "always", "never"])
def test_byte_fallback(artifact: Path, prefix: str) -> None:
    assert not same(artifact, tokenizers_made.sentencepiece(prefix), "LlamaTokenizer")
    right = prefix in ("none", "never")
    assert same(artifact, within_words(prefix), "LlamaTokenizerFast") == right
    assert not same(artifact, within_words(prefix, spaces=True), "LlamaTokenizer")


@pytest.mark.parametrize("name", ["GemmaTokenizerFast", "TokenizersBackend", "LlamaTokenizer"])
def test_gemma_s_rule_is_known_by_its_class_or_its_split(artifact: Path, name: str) -> None:
    backend, cut = tokenizers_made.gemma(), pre_tokenizers.Split(" ", "merged_with_previous")
    assert same(artifact, backend, name, bos_token="<bos>")
    backend.pre_tokenizer = pre_tokenizers.Sequence([])
    assert same(artifact, backend, name) == name.startswith("Gemma")
    spaced = tokenizers_made.sentencepiece("prepend")
    spaced.pre_tokenizer = cut
    assert not same(artifact, spaced, name)


def test_bytes_under_the_name_of_llama(artifact: Path) -> None:
    assert not same(artifact, tokenizers_made.byte_level(gpt2=True), "LlamaTokenizer")


@pytest.mark.parametrize("name", [*sorted(genai_tokenizer.CLASSES), "BertTokenizer"])
def test_classes(artifact: Path, name: str) -> None:
    backend = tokenizers_made.byte_level(tokenizers_made.KINDS["llama-bpe"]["splits"])
    assert same(artifact, backend, name) == (name in genai_tokenizer.CLASSES)
    if name:
        assert same(artifact, backend, f"{name}Fast") == (name in genai_tokenizer.CLASSES)


def test_a_token_before_each_text(artifact: Path) -> None:
    backend = tokenizers_made.sentencepiece()
    backend.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    assert not same(artifact, backend, bos_token="<s>")
    opened = og.Tokenizer(og.Model(str(artifact)))
    assert backend.encode("hi").ids == [1, *ids(opened, "hi")]
    found = Tokenizer(backend, bos=1, prefix=(1,))
    assert "puts no '<s>' before a text" in genai_tokenizer.notes(found, artifact, TORTURE)[-1]


def test_the_note_shows_what_gets_other_ids(artifact: Path) -> None:
    backend = with_normalizer(normalizers.Lowercase())
    same(artifact, backend)
    (note,) = genai_tokenizer.notes(Tokenizer(backend), artifact, ["it is", "It is", "is"])
    assert note == (
        "onnxruntime-genai 0.18 reads the normalizer Lowercase of this tokenizer otherwise: texts "
        "like 'It' get other ids there; give it token ids of the tokenizers library."
    )
