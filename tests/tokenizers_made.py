"""Small tokenizers of every kind that GGUF can hold, trained in a moment on the built-in texts."""

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

import calib_data
from runtime.pre_tokenizers import PRE_TOKENIZERS

TEXTS = Path(calib_data.__file__).parent / "texts"
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
DEEPSEEK_CODER = ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+")
DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
    r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)

KINDS: dict[str, dict[str, Any]] = {
    "qwen2": {"splits": (QWEN2,), "nfc": True},
    "deepseek-r1-qwen": {"splits": (QWEN2,)},
    "llama-bpe": {"splits": (LLAMA3,), "ignore_merges": True},
    "dbrx": {"splits": (LLAMA3,)},
    "smollm": {"digits": True, "gpt2": True},
    "gpt-2": {"gpt2": True},
    "deepseek-coder": {"splits": DEEPSEEK_CODER, "digits": True},
    "deepseek-v3": {"splits": DEEPSEEK_V3},
    "seed-coder": {
        "splits": (
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}|"
            " ?[^\\s\\p{L}\\p{N}\r\n]+|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
        )
    },
    "bailingmoe": {
        "splits": (
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}|"
            r" ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        )
    },
}
KINDS |= {
    name: {
        "splits": rule.trained or rule.patterns,
        "ignore_merges": rule.ignore_merges,
        "nfc": rule.nfc,
    }
    for name, rule in PRE_TOKENIZERS.items()
    if name not in KINDS
}
"""GGUF's name -> how tokenizer.json of such a model spells its rule."""


def corpus() -> list[str]:
    """Some lines of several languages and of code."""
    names = ("prose.news.txt", "code.python.txt", "languages.ru.txt", "languages.ja.txt")
    return [line for name in names for line in (TEXTS / name).read_text("utf-8").splitlines()]


def byte_level(
    splits: tuple[str, ...] = (),
    digits: bool = False,
    gpt2: bool = False,
    nfc: bool = False,
    ignore_merges: bool = False,
) -> tokenizers.Tokenizer:
    """A byte-level BPE of 600 tokens, three of them special."""
    backend = tokenizers.Tokenizer(models.BPE(ignore_merges=ignore_merges))
    steps: list[Any] = [pre_tokenizers.Split(Regex(text), "isolated") for text in splits]
    steps += [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=gpt2))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    if nfc:
        backend.normalizer = normalizers.NFC()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=597, initial_alphabet=alphabet, show_progress=False, min_frequency=2
    )
    backend.train_from_iterator(corpus(), trainer)
    backend.add_special_tokens(CONTROL)
    return backend


@cache  # the trainer breaks ties by chance
def _learned() -> list[str]:
    """Pieces of a BPE as sentencepiece would train it, in the order of their ids."""
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=500, limit_alphabet=120, show_progress=False)
    trained.train_from_iterator(corpus(), trainer)
    return sorted(trained.get_vocab(), key=trained.token_to_id)


def sentencepiece(prefix: str = "prepend") -> tokenizers.Tokenizer:
    """A BPE with byte fallback as Llama 2's: `prefix` is "prepend", "none" or a scheme."""
    words = [piece for piece in _learned() if len(piece) > 1]
    letters = [piece for piece in _learned() if len(piece) == 1]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words, *letters]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    plain = {*words, *letters}
    # sentencepiece joins every pair that makes a word, whichever pair it was learned from
    merges = [
        (word[:cut], word[cut:])
        for word in words
        for cut in range(1, len(word))
        if word[:cut] in plain and word[cut:] in plain
    ]
    model = models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    backend = tokenizers.Tokenizer(model)
    replace = normalizers.Replace(" ", "▁")
    if prefix == "prepend":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace])
    elif prefix in ("first", "always", "never"):
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prefix, split=False)
    else:
        backend.normalizer = replace
    strip = [] if prefix in ("none", "never") else [decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return backend


SPACES = ["▁" * count for count in range(2, 8)]
"""Runs of spaces that are tokens of Gemma."""


def gemma() -> tokenizers.Tokenizer:
    """A BPE as Gemma's: runs of line ends and of spaces are tokens that are no words, and a text
    begins with <bos>."""
    words = [piece for piece in _learned() if len(piece) > 1 and piece not in SPACES]
    letters = [piece for piece in _learned() if len(piece) == 1]
    control = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
    ends = ["\n" * count for count in range(1, 6)]
    own = [*ends, *SPACES, "<div>", "[multimodal]"]
    pieces = [*control, *own, *(f"<0x{byte:02X}>" for byte in range(256)), *words, *letters]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    merges = [  # of all that are no bytes, in the order of their ids
        (word[:cut], word[cut:])
        for word in [*own, *words]
        for cut in range(1, len(word))
        if word[:cut] in vocab and word[cut:] in vocab
    ]
    model = models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    backend.add_special_tokens(control)
    backend.add_tokens([AddedToken(text, normalized=False) for text in own])
    put_around(backend, ["<bos>"])
    return backend


def with_specials(kind: str) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """A tokenizer of a kind, and its special tokens."""
    if kind in ("llama", "first"):
        prefix = "prepend" if kind == "llama" else kind
        special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        return sentencepiece(prefix), special
    if kind == "gemma":
        names = ("bos", "eos", "unk", "pad")
        return gemma(), {f"{name}_token": f"<{name}>" for name in names}
    odd = {"word pieces": word_pieces, "lower case": lower_case}
    backend = odd[kind]() if kind in odd else byte_level(**KINDS[kind])
    return backend, {"eos_token": "<|im_end|>"}


def word_pieces() -> tokenizers.Tokenizer:
    """BERT's kind of tokenizer."""
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[UNK]", "<|im_end|>"]
    trainer = trainers.WordPieceTrainer(vocab_size=800, special_tokens=special, show_progress=False)
    backend.train_from_iterator(corpus(), trainer)
    backend.decoder = decoders.WordPiece()
    return backend


def lower_case() -> tokenizers.Tokenizer:
    """A tokenizer that reads capitals as small letters."""
    backend = byte_level(gpt2=True)
    backend.normalizer = normalizers.Lowercase()
    return backend


def put_around(
    backend: tokenizers.Tokenizer, before: Iterable[str] = (), after: Iterable[str] = ()
) -> None:
    """Make the post-processor put these tokens before and after each text."""
    single = [*before, "$A", *after]
    named = [(text, backend.token_to_id(text)) for text in single if text != "$A"]
    backend.post_processor = processors.TemplateProcessing(
        single=single, pair="$A $B:1", special_tokens=list(dict.fromkeys(named))
    )


def save(backend: tokenizers.Tokenizer, folder: Path, **settings: Any) -> Path:
    """Write tokenizer.json and tokenizer_config.json into a folder; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def made(kind: str, folder: Path) -> Path:
    """A folder with a tokenizer of one of KINDS, "llama" for sentencepiece, or "gemma"."""
    if kind == "gemma":
        backend, special = with_specials(kind)
        return save(backend, folder, tokenizer_class="GemmaTokenizer", **special)
    if kind == "llama":
        return save(sentencepiece(), folder, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    return save(byte_level(**KINDS[kind]), folder, eos_token="<|im_end|>")
