"""What each pre-tokenizer name of a GGUF stands for: where a text is cut into words.

GGUF names the rule and does not spell it, so engines must know every name. The reader rebuilds a
tokenizer by this table, and the writer looks a checkpoint's own rule up in it. Patterns mean what
llama.cpp cuts (src/llama-vocab.cpp and src/unicode.cpp), in the syntax of tokenizer.json;
tests/interop/test_pre_tokenizers.py compares every name.
"""

from dataclasses import dataclass

Patterns = tuple[str, ...]


@dataclass(frozen=True)
class PreTokenizer:
    """How a text becomes words: every pattern in turn cuts the pieces that the last one left."""

    patterns: Patterns
    ignore_merges: bool = False
    """Whether a word that is a token is taken whole, whatever the merges say."""
    nfc: bool = False
    """Whether the original composes characters first (NFC). llama.cpp does not."""
    add_bos: bool = False
    """What engines do when the file does not say whether a text starts with bos."""
    trained: Patterns | None = None
    """The rule under which such vocabularies were trained, where it cuts more than llama.cpp's: no
    merge joins what it cut, so that ids are the same."""


DIGIT = r"\p{N}"
DIGITS = r"\p{N}+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PUNCTUATION = r"[\p{P}!-/:-@\[-`{-~]"
"""What the step Punctuation of tokenizer.json takes for a mark: Unicode's, and ASCII's signs."""

ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LINES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LINE = r"\s*[\r\n]|\s+(?!\S)|\s+"
_START = r"[^\r\n\p{L}\p{N}]?"
_WORD = rf"{_START}\p{{L}}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SLASHED = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_LINES}"
LLAMA3 = rf"{ENGLISH}|{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}|{_LINES}"
QWEN2 = rf"{ENGLISH}|{_WORD}|\p{{N}}|{_SIGNS}|{_LINES}"
_QWEN35 = (
    rf"{ENGLISH}|{_START}[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_LINES}"
)
_JAIS2 = rf"{ENGLISH}|{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}|\s*[\r\n]+|" + "|".join(
    [*(rf"\s{{{2**n}}}(?!\S)" for n in range(9, 1, -1)), r"\s{1,2}(?!\S)", r"\s{1}"]
)
_BAILING = rf"{ENGLISH}|{_WORD}|\p{{N}}|{_SIGNS}|{_LINE}"
_SEED = rf"{ENGLISH}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_LINES}"
_PHRASE = rf"{_START}(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+"
_EXAONE_MOE = rf"{ENGLISH}|{_PHRASE}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?|{_LINE}"
_MINICPM5 = (r"\p{N}{1,3}", rf"{ENGLISH}|{_WORD}|\p{{N}}+|{_SIGNS}|{_LINES}")


def _cased(upper: str, lower: str, end: str = "") -> str:
    """A word that starts in `upper` and goes on in `lower`, both classes of characters."""
    return rf"{_START}{upper}*{lower}+{end}|{_START}{upper}+{lower}*{end}"


# llama.cpp's regular expressions have no classes of capitals: it takes every letter but a-z for one
_UPPER, _LOWER = r"[\p{L}&&[^a-z]]", r"[\p{L}&&[^A-Z]]"
_UPPER_MARKED, _LOWER_MARKED = r"[\p{L}\p{M}&&[^a-z]]", r"[\p{L}\p{M}&&[^A-Z]]"
_TEKKEN = rf"{_cased(_UPPER, _LOWER)}|\p{{N}}|{_SLASHED}"
_GPT4O = rf"{_cased(_UPPER, _LOWER, ENGLISH + '?')}|\p{{N}}{{1,3}}|{_SLASHED}"
_GRANITE = rf"{_cased(_UPPER_MARKED, _LOWER_MARKED, ENGLISH + '?')}|\p{{N}}{{1,3}}|{_SLASHED}"
_ANY_CASE = rf"{_START}[\p{{L}}\p{{M}}]+{ENGLISH}?"
# groups of three digits from the right; what stands before the first one is not cut off there
_THOUSANDS = r"[^\p{N}]*\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"

_CJK = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_YOUTU_MARKS = (
    "[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+"
)
_YOUTU = (
    rf"[\uac00-\ud7a3\u3131-\u318e]+|{_YOUTU_MARKS}|[\u3105-\u312f]+|{_CJK}",
    rf"{_ANY_CASE}|\p{{N}}|{_SLASHED}",
)
_MARKS = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"
_LATIN = rf"{_MARKS}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+"
_DEEPSEEK_V3 = (r"\p{N}{1,3}", _CJK, rf"{_LATIN}[\r\n]*|{_LINES}")
_SPARK = (r"\p{N}{1,3}", _CJK, rf"{_LATIN}|[\r\n]|\s+(?!\S)|\s+", DIGIT)
_AFMOE = (
    _THOUSANDS,
    "(?:(?!\\s)[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f"
    "\u2f00-\u2fdf\u0e40-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff"
    "\uac00-\ud7af\u1100-\u11ff])+",
    rf"{_LATIN}[\r\n]*|{_LINES}",
)
_HAN = (
    "\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002b73f"
    "\U0002b740-\U0002b81f\U0002b820-\U0002ceaf\U0002ceb0-\U0002ebef\U0002f800-\U0002fa1f"
)
_KIMI = rf"[{_HAN}]+|{_START}[\p{{L}}&&[^{_HAN}]]+{ENGLISH}?|\p{{N}}{{1,3}}|{_SIGNS}|{_LINES}"

_WIDE = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]"
# in a class of characters llama.cpp finds no wide space: it turned them into tabs before
_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", rf"(?:(?!\s){_WIDE})+", DIGIT)
_CODER_TRAINED = (*_CODER[:3], f"{_WIDE}+", DIGIT)
_CASED_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af"
    "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5"
    "\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba"
    "\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45"
    "\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe"
    "\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc"
    "\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3"
    "\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06"
    "\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943"
)
_WIDE_MARKS = "[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]"
_DEEPSEEK_LLM = (
    r"[\r\n]",
    rf"\s?[{_CASED_LETTERS}]+",
    rf"\s?(?:(?!\s){_WIDE_MARKS})+",
    r"\s+$",
    rf"(?:(?!\s){_WIDE})+",
    DIGITS,
)
_LLM_TRAINED = (*_DEEPSEEK_LLM[:2], rf"\s?{_WIDE_MARKS}+", r"\s+$", f"{_WIDE}+", DIGIT)
_FALCON = (f"{PUNCTUATION}+", GPT2, "[0-9][0-9][0-9]")
_FALCON_TRAINED = (f"{PUNCTUATION}+", GPT2, DIGITS, "[0-9][0-9][0-9]")
_DEFAULT = (r"[\p{P}$+<=>^~|]+", GPT2, DIGITS, "[0-9][0-9][0-9]")
_BLOOM = r" ?[^(\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
_CHAMELEON = (
    "<sentinel:[0-9]+>",
    "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
    r"([\t\n]|    |  )",
    DIGIT,
    PUNCTUATION,
    GPT2,
)

PRE_TOKENIZERS = {
    "qwen2": PreTokenizer((QWEN2,), nfc=True),
    "deepseek-r1-qwen": PreTokenizer((QWEN2,)),
    "qwen35": PreTokenizer((_QWEN35,), nfc=True),
    "llama-bpe": PreTokenizer((LLAMA3,), ignore_merges=True, add_bos=True),
    "dbrx": PreTokenizer((LLAMA3,)),
    "glm4": PreTokenizer((LLAMA3,), ignore_merges=True),
    "smollm": PreTokenizer((DIGIT, GPT2)),
    "gpt-2": PreTokenizer((GPT2,)),
    "deepseek-coder": PreTokenizer(_CODER, trained=_CODER_TRAINED),
    "deepseek-llm": PreTokenizer(_DEEPSEEK_LLM, trained=_LLM_TRAINED),
    "deepseek-v3": PreTokenizer(_DEEPSEEK_V3),
    "tekken": PreTokenizer((_TEKKEN,), ignore_merges=True, add_bos=True),
    "gpt-4o": PreTokenizer((_GPT4O,)),
    "granite-embed-multi-97m": PreTokenizer((_GRANITE,), ignore_merges=True),
    "tiny_aya": PreTokenizer((_THOUSANDS, rf"{_ANY_CASE}|\p{{N}}{{1,3}}|{_SLASHED}")),
    "youtu": PreTokenizer(_YOUTU, ignore_merges=True),
    "kimi-k2": PreTokenizer((_KIMI,)),
    "afmoe": PreTokenizer(_AFMOE),
    "seed-coder": PreTokenizer((_SEED,)),
    "bailingmoe": PreTokenizer((_BAILING,)),
    "exaone-moe": PreTokenizer((_EXAONE_MOE,)),
    "jais-2": PreTokenizer((_JAIS2,)),
    "laguna": PreTokenizer((r"[^\n]+|[\n]+", QWEN2)),
    "minicpm5": PreTokenizer(_MINICPM5, ignore_merges=True),
    "spark2_5": PreTokenizer(_SPARK),
    "superbpe": PreTokenizer((DIGITS, "(?=([0-9]{3})+(?![0-9]))")),
    "ufakzeka": PreTokenizer((rf"{_WORD}|\p{{N}}|{_SIGNS}|{_LINES}",)),
    "falcon": PreTokenizer(_FALCON, trained=_FALCON_TRAINED),
    "bloom": PreTokenizer((_BLOOM,)),
    "viking": PreTokenizer((_BLOOM, DIGIT)),
    "chameleon": PreTokenizer(_CHAMELEON, add_bos=True),
    "default": PreTokenizer(_DEFAULT),
}
"""`tokenizer.ggml.pre` -> its meaning. The writer takes the first name that fits."""

_OTHER_NAMES = {
    "llama-bpe": "llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
    "dbrx": "smaug-bpe chatglm-bpe",
    "smollm": "starcoder refact command-r codeshell exaone minerva-7b mellum2",
    "gpt-2": "phi-2 mpt olmo jais trillion granite-docling gigachat a.x-4.0 mellum exaone4 "
    "jina-es jina-de modern-bert",
    "deepseek-r1-qwen": "kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2",
    "deepseek-v3": "hunyuan-dense joyai-llm hy_v4",
    "gpt-4o": "llama4 kanana2 talkie minimax-m2",
    "tiny_aya": "cohere2moe",
    "bloom": "poro-chat gpt3-finnish",
    "bailingmoe": "bailingmoe2 llada-moe",
}
ALIASES = {name: first for first, names in _OTHER_NAMES.items() for name in names.split()}
"""Other names of the same rules, for reading."""

_CAPITALS, _SMALL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
UNLIKE = {
    (rf"{_cased(_CAPITALS, _SMALL)}|\p{{N}}|{_SLASHED}",): "tekken",
    (rf"{_cased(_CAPITALS, _SMALL, ENGLISH + '?')}|\p{{N}}{{1,3}}|{_SLASHED}",): "gpt-4o",
}
"""Rules of tokenizer.json -> the name of the one by which llama.cpp runs them all the same, though
it cuts before combining marks, and does not at capitals beyond A-Z: other ids in most languages."""
