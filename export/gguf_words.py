"""The word rule of a tokenizer.json, under the name that GGUF has for it."""

from typing import Any

from runtime.errors import UnsupportedError
from runtime.pre_tokenizers import (
    DIGIT,
    DIGITS,
    ENGLISH,
    GPT2,
    LLAMA3,
    PRE_TOKENIZERS,
    PUNCTUATION,
    QWEN2,
    UNLIKE,
)

SPELLINGS = {
    "\r": r"\r",  # some spell line ends as they are
    "\n": r"\n",
    "?+": "?",  # possessive: what follows starts with none of the characters before
    ")++": ")+",
    "]++": "]+",
    r"\p{N}{1}": DIGIT,
    "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])": ENGLISH,
    "'(?i:[sdmt]|ll|ve|re)": ENGLISH,
}
"""Other spellings of the same in a regular expression -> the one of PRE_TOKENIZERS."""

INSTEAD = "write an ONNX folder, and encode with the tokenizers library."
"""The way out for a tokenizer that GGUF cannot say: onnxruntime-genai does not read all of them."""

WHOLE = {GPT2, LLAMA3, QWEN2, *(pattern for (pattern,) in UNLIKE)}
"""Rules of which every character is a part of a match."""


def pre_tokenizer_name(settings: dict[str, Any]) -> str:
    """GGUF's name for the word rule of a tokenizer.json; EdgequantError when it has none."""
    patterns = [_pattern(step) for step in steps(settings["pre_tokenizer"], "pretokenizers")]
    normalizers = [step["type"] for step in steps(settings["normalizer"], "normalizers")]
    ignore_merges = bool(settings["model"].get("ignore_merges"))
    cuts = tuple(pattern for pattern in patterns if pattern)
    for name, known in PRE_TOKENIZERS.items():
        fits = cuts in (known.patterns, known.trained) and ignore_merges == known.ignore_merges
        if fits and normalizers == (["NFC"] if known.nfc else []):
            return name
    if cuts in UNLIKE:
        raise UnsupportedError(
            f"llama.cpp runs this tokenizer's rule as {UNLIKE[cuts]!r}, but cuts words with "
            f"combining marks or capitals beyond A-Z otherwise, which gives other ids; {INSTEAD}"
        )
    raise UnsupportedError(
        f"GGUF has no name for this tokenizer's rule: patterns {list(cuts)}, ignore_merges "
        f"{ignore_merges}, normalizers {normalizers}; {INSTEAD}"
    )


def steps(part: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    """A normalizer or pre-tokenizer as a list of plain ones."""
    if part is None:
        return []
    if part["type"] != "Sequence":
        return [part]
    return [step for each in part[inner] for step in steps(each, inner)]


def _pattern(step: dict[str, Any]) -> str:
    """The regular expression at which one step cuts, "" for none; an unknown step by its name."""
    step_type = step["type"]
    if step_type == "Split" and _isolates(step):
        return _canonical(step)
    if step_type == "Digits":
        return DIGIT if step.get("individual_digits") else DIGITS
    if step_type == "Punctuation" and step["behavior"] in ("Isolated", "Contiguous"):
        return PUNCTUATION + ("+" if step["behavior"] == "Contiguous" else "")
    if step_type == "ByteLevel" and not step.get("add_prefix_space"):
        return GPT2 if step.get("use_regex", True) else ""
    return f"<{step_type}>"


def _canonical(step: dict[str, Any]) -> str:
    """A step's regular expression in the spelling of PRE_TOKENIZERS."""
    written = str(step["pattern"].get("Regex", step["pattern"]))
    for other, usual in SPELLINGS.items():
        written = written.replace(other, usual)
    return written


def _isolates(step: dict[str, Any]) -> bool:
    """Whether what matches becomes words, and what lies between stays.

    "Removed" with `invert` keeps the matches alone: the same where nothing lies between.
    """
    if step["behavior"] == "Removed" and step.get("invert"):
        return _canonical(step) in WHOLE
    return bool(step["behavior"] == "Isolated" and not step.get("invert"))
