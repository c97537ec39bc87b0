"""What onnxruntime-genai's own tokenizer makes of a tokenizer.json, where it is another one.

It takes the vocabulary, the merges and little else: no normalizer, no step of the pre-tokenizer but
patterns that it knows, no `lstrip` and no `single_word` (onnxruntime-extensions,
operators/tokenizer/bpe_*). tests/interop/test_genai_tokenizer.py asks it. The tokenizers library,
and all that read tokenizer.json with it, give the right ids.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from export.gguf_words import steps
from runtime.added_tokens import tokenizer_settings
from runtime.pre_tokenizers import ENGLISH, GPT2, LLAMA3, PRE_TOKENIZERS, UNLIKE
from runtime.tokenizer import Tokenizer

ENGINE = "onnxruntime-genai 0.18"
WAY_OUT = "give it token ids of the tokenizers library."

CLASSES = {
    *("PreTrainedTokenizer", "WhisperTokenizer", "GemmaTokenizer"),
    *("InternLM2Tokenizer", "LlamaTokenizer", "Phi3Tokenizer", "CodeLlamaTokenizer"),
    *("CodeGenTokenizer", "GPT2Tokenizer", "Qwen2Tokenizer", "BaichuanTokenizer"),
    *("GPTNeoXTokenizer", "T5Tokenizer", "ChatGLMTokenizer", "XLMRobertaTokenizer"),
    *("MarianTokenizer", "DebertaV2Tokenizer", "TokenizersBackend", "PythonBackend"),
    *("MistralCommonBackend", "SentencePieceBackend", ""),
}
"""`tokenizer_class` of tokenizer_config.json, "Fast" at its end left out: it opens no other."""

STEPS = {
    *("BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Digits", "Metaspace", "Punctuation"),
    *("Sequence", "Split", "UnicodeScripts", "Whitespace", "WhitespaceSplit"),
}
"""Pre-tokenizers with which it opens a tokenizer.json. It carries out none but Split."""

RULES = ("qwen2", "llama-bpe", "gpt-2", "qwen35", "smollm", "jais-2", "laguna", "ufakzeka")
PATTERNS = {
    *(pattern for name in RULES for pattern in PRE_TOKENIZERS[name].patterns),
    *(pattern for (pattern,) in UNLIKE),
    *PRE_TOKENIZERS["deepseek-v3"].patterns[:2],
}
"""Patterns of Split that it cuts as the tokenizers library does. It knows some parts of patterns,
and leaves the rest to C++'s regular expressions, which have no classes of letters."""

SPELLED_OUT = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
"""Another spelling of ENGLISH that it knows."""

COMPOSING = {"NFC": "NFC (letters with combining marks)"}
"""What users know of a normalizer by another name."""

SPACE = "\u2581"

Settings = dict[str, Any]
"""A tokenizer.json."""


def notes(tokenizer: Tokenizer, source: Path, texts: Iterable[str]) -> tuple[str, ...]:
    """A sentence for each way in which onnxruntime-genai gives other ids than `tokenizer`.

    `texts` are tried; `source` is the checkpoint's folder.
    """
    settings = tokenizer.settings()
    name = str(tokenizer_settings(source).get("tokenizer_class", "")).removesuffix("Fast")
    found = [_not_opened(settings, name), _bos(tokenizer)]
    if not found[0]:
        found[0] = _read_otherwise(settings, name, [*texts, *_own_texts(settings)])
    return tuple(note for note in found if note)


def _bos(tokenizer: Tokenizer) -> str:
    if not tokenizer.prefix:
        return ""
    ids = ", ".join(map(str, tokenizer.prefix))
    return (
        f"{ENGINE} puts no {tokenizer.decode(tokenizer.prefix)!r} before a text by itself: put its "
        f"id, {ids}, there where no chat template writes it."
    )


def _not_opened(settings: Settings, name: str) -> str:
    """What keeps it from opening a tokenizer of the class `name`, or from knowing its rule."""
    kind, what = settings["model"]["type"], ""
    if kind != "BPE":
        what = f"a {kind} tokenizer"
    elif name not in CLASSES:
        what = f"a tokenizer of the class {name!r}"
    for step in _steps(settings):
        if step["type"] not in STEPS:
            what = what or f"a pre-tokenizer {step['type']}"
        if (pattern := _pattern(step)) and pattern not in PATTERNS:
            what = what or f"the pattern '{pattern:.60}' of this tokenizer"
    if not what:
        return ""
    return (
        f"{ENGINE} does not know {what}: it opens no such tokenizer, or gives other ids; {WAY_OUT}"
    )


def _steps(settings: Settings) -> list[Settings]:
    """The pre-tokenizer as a list of steps; it does not look into a list within the list."""
    step = settings["pre_tokenizer"]
    if step is None:
        return []
    return list(step["pretokenizers"]) if step["type"] == "Sequence" else [step]


def _pattern(step: Settings) -> str:
    """The regular expression of a Split, as PATTERNS spell it; "" for another step."""
    if step["type"] != "Split":
        return ""
    written = str(step["pattern"].get("Regex", "")).replace(SPELLED_OUT, ENGLISH)
    for sign, escape in (("\r", r"\r"), ("\n", r"\n"), ("\t", r"\t")):
        written = written.replace(sign, escape)
    return written


def _read_otherwise(settings: Settings, name: str, texts: Sequence[str]) -> str:
    """A sentence that names what it leaves out, and a text that gets other ids by that."""
    named, examples = [], []
    for feature, instead in _left_out(settings, name):
        if differing := _differing(settings, settings | instead, texts):
            named.append(feature)
            examples += differing
    if not named:
        return ""
    return (
        f"{ENGINE} reads {' and '.join(named)} of this tokenizer otherwise: texts like "
        f"{examples[0]!a} get other ids there; {WAY_OUT}"
    )


def _left_out(settings: Settings, name: str) -> Iterator[tuple[str, Settings]]:
    """What it does not heed, with the part of tokenizer.json that says what it does instead."""
    model = settings["model"]
    normalizers = [step["type"] for step in steps(settings["normalizer"], "normalizers")]
    cuts = [step["type"] for step in _steps(settings)]
    if _is_sentencepiece(settings):
        instead = _spaces(settings, name) | {"model": model | {"byte_fallback": True}}
        yield f"the handling of spaces ({', '.join([*normalizers, *cuts])})", instead
    else:
        if normalizers:
            named = " and ".join(COMPOSING.get(each, each) for each in normalizers)
            yield f"the normalizer {named}", {"normalizer": None}
        yield f"the pre-tokenizer ({', '.join(cuts)})", {"pre_tokenizer": _words(settings, name)}
    if not model.get("ignore_merges"):
        whole = {"model": model | {"ignore_merges": True}}
        yield "ignore_merges false", whole
    tokens = settings["added_tokens"]
    for flag in ("lstrip", "single_word"):
        if marked := [token["content"] for token in tokens if token[flag]]:
            yield f"{flag} of {marked[0]!r}", {"added_tokens": [t | {flag: False} for t in tokens]}


def _is_sentencepiece(settings: Settings) -> bool:
    """Whether it reads byte fallback and not byte-level: it looks at the decoder."""
    found = _decoders(settings)
    replaced = [step["pattern"].get("String") for step in found if step["type"] == "Replace"]
    replaced += [step["replacement"] for step in found if step["type"] == "Metaspace"]
    return SPACE in replaced


def _decoders(settings: Settings) -> list[Settings]:
    """The steps of a Sequence; it does not look at a decoder that stands alone."""
    return list((settings["decoder"] or {}).get("decoders", []))


def _spaces(settings: Settings, name: str) -> Settings:
    """A space before each piece if the decoder strips one, and Llama 3's rule.

    A piece that begins with a space is then left whole. Without that space nothing is cut where
    the class or a Split at spaces says that it is Gemma's.
    """
    strips = any(step["type"] == "Strip" and step["content"] == " " for step in _decoders(settings))
    cut = rf"\A{SPACE} [\s\S]*|{LLAMA3}" if strips else LLAMA3
    replace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "never", "split": False}
    plain = any("String" in step.get("pattern", ()) for step in _steps(settings))
    gemma = not strips and (plain or name == "GemmaTokenizer")
    return {
        "normalizer": {"type": "Prepend", "prepend": SPACE} if strips else None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [replace] if gemma else [_split(cut), replace],
        },
    }


def _words(settings: Settings, name: str) -> Settings:
    """The patterns of Split, or the one of a class where there is none; then bytes."""
    found = [step["pattern"].get("Regex") for step in _steps(settings) if step["type"] == "Split"]
    if None in found:  # a plain string: it reads no further
        found = found[: found.index(None)]
    usual = LLAMA3 if name == "LlamaTokenizer" else GPT2
    cut = [_split(pattern) for pattern in found or [usual]]
    plain = {"add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [*cut, {"type": "ByteLevel"} | plain]}


def _split(pattern: str) -> Settings:
    cut = {"Regex": pattern}
    return {"type": "Split", "pattern": cut, "behavior": "Isolated", "invert": False}


def _differing(settings: Settings, other: Settings, texts: Sequence[str]) -> list[str]:
    """Where two tokenizers give other ids: single words before texts, the readable ones first."""
    if settings == other:
        return []
    first, second = (tokenizers.Tokenizer.from_str(json.dumps(each)) for each in (settings, other))

    def differ(text: str) -> bool:
        ids = [each.encode(text, add_special_tokens=False).ids for each in (first, second)]
        return ids[0] != ids[1]

    found = [text for text in texts if differ(text)]
    words = [word for text in found for word in text.split() if differ(word)]
    return sorted([*words, *sorted(found, key=len)], key=_hard_to_read)


def _hard_to_read(text: str) -> tuple[bool, bool]:
    return not text.isascii(), not text.strip()


def _own_texts(settings: Settings) -> list[str]:
    """Texts with the tokenizer's own added tokens, the last ones."""
    return [
        form.format(token["content"])
        for token in settings["added_tokens"][-64:]
        for form in ("a{}b", "a {} b")
    ]
