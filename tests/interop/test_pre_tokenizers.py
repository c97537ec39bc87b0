"""Every pre-tokenizer name of a GGUF: the ids of llama.cpp, and of the tokenizer rebuilt here."""

import random
import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest
import tokenizers
from tokenizers import pre_tokenizers

from quantize.report.torture import TORTURE
from runtime.engine import open_engine
from runtime.pre_tokenizers import ALIASES, PRE_TOKENIZERS
from tests.gguf_made import bytes_alphabet, tiny_gguf
from tests.interop.vocabulary import adds_bos, tokenize

pytest.importorskip(
    "xllamacpp", reason="xllamacpp is not installed: pip install 'edgequant[interop]'"
)

TEXTS = (
    *TORTURE,
    "x  12   3 it'sab I'llx what?!\n\n",
    "eight        spaces",
    "It's we'll I'd THEY'RE don'T \u2019s x'Ll 'S",
    "12 345 6789 1234567 3.14 100,000.00 1a2b 3rd \u00bd \u2167 \u0661\u0662\u0663\u0664",
    "123\u0439 1234\u00f15 12_345",
    "  two   three\t\ttabs \n\n \r\n  line\n",
    "\r\n\r\n  \n end  ",
    "\u65e5\u672c\u8a9e\u30ab\u30ca\u306e\u6587 \ud55c\uad6d\uc5b4 \ubb38\uc7a5",
    "\u4e2d\u6587\uff0c\u6807\u70b9\u3002",
    "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22 \u0e01\u0e47\u0e44\u0e14\u0e49",
    "\u0939\u093f\u0928\u094d\u0926\u0940",
    "e\u0301te\u0301 \u00e9t\u00e9 \u00c9T\u00c9 caf\u00e9CAF\u00c9 CamelCase fooBAR",
    "\u043c\u0438\u0440\u041c\u0418\u0420",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea\U0001f600!!! ???/// //\n",
    "na\u00efve \u00dcbung stra\u00dfe \u00d1and\u00fa",
    "\u0391\u0392 \u03b1\u03b2 \u01c5 \u02b0 \u00aa",
    "a_b-c+d=e<f>g^h~i|j`k $5 #tag @me /path/to/f.py\n\n\tdef f(x):\n",
    "x\u00a0y\u3000z\u2003w\u200bq \u3000\u6587 \u2014\u2026 \u201cq\u201d",
    "\u05e2\u05d1\u05e8\u05d9\u05ea \u0627\u0644\u0639\u0631\u0628\u064a\u0629\u0661\u0662\u0663",
    "a\u0300\u0301 \u0300 z\u0300a 1\u0300 2 i\u0307\u0130 \u0131I",
    "<sentinel:12>IMGIMGABCZ \t\n x \x0b\x0c\x85\u2028\u2029 y",
)
_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def vocabulary(seed: int) -> tuple[list[str], list[str]]:
    """Tokens and merges that betray where a text is cut: they join any two bytes in TEXTS.

    In an order by chance: where one order joins the bytes at a cut, or their neighbours first.
    """
    written = ["".join(word for word, _ in _BYTES.pre_tokenize_str(text)) for text in TEXTS]
    pairs = sorted({pair for text in written for pair in pairwise(text)})
    random.Random(seed).shuffle(pairs)
    pairs += [("\u0120\u0120", "\u0120")]
    words = ["\u0120two", "tabs"]  # no merge makes them
    tokens = [*bytes_alphabet(), *map("".join, pairs), *words]
    return tokens, [f"{left} {right}" for left, right in pairs]


@pytest.mark.parametrize("name", [*PRE_TOKENIZERS, *ALIASES])
def test_every_name_cuts_where_llamacpp_does(name: str, tmp_path: Path) -> None:
    rule = PRE_TOKENIZERS[ALIASES.get(name, name)]
    for seed in range(3 if name in PRE_TOKENIZERS else 1):
        tokens, merges = vocabulary(seed)
        keys = {"tokenizer.ggml.pre": name, "tokenizer.ggml.merges": merges}
        engine = open_engine(tiny_gguf(tmp_path / f"{seed}.gguf", tokens, keys), "llamacpp")
        assert engine.tokenizer is not None
        assert bool(engine.tokenizer.prefix) == adds_bos(engine)
        for text in TEXTS:
            given = unicodedata.normalize("NFC", text) if rule.nfc else text
            assert tokenize(engine, given) == engine.tokenizer.encode(text), ascii(text)


def test_such_vocabularies_tell_rules_apart() -> None:
    """So that the test above can fail."""
    found: dict[tuple[int, ...], list[str]] = {}
    for name, rule in PRE_TOKENIZERS.items():
        ids: list[int] = []
        for seed in range(3):
            tokens, merges = vocabulary(seed)
            vocab = {token: index for index, token in enumerate(tokens)}
            pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
            model = tokenizers.models.BPE(vocab, pairs, ignore_merges=rule.ignore_merges)
            backend = tokenizers.Tokenizer(model)
            cuts = [pre_tokenizers.Split(tokenizers.Regex(p), "isolated") for p in rule.patterns]
            backend.pre_tokenizer = pre_tokenizers.Sequence([*cuts, _BYTES])
            ids += [index for text in TEXTS for index in backend.encode(text).ids]
        found.setdefault(tuple(ids), []).append(name)
    alike = [names for names in found.values() if len(names) > 1]
    assert alike == [
        ["qwen2", "deepseek-r1-qwen", "bailingmoe"],  # spelled apart, or NFC
        ["llama-bpe", "glm4"],  # one adds bos
    ]
