"""A tokenizer.json with byte fallback as the vocabulary of sentencepiece that GGUF knows."""

from typing import Any

from export.gguf_words import INSTEAD, steps
from runtime.errors import UnsupportedError
from runtime.gguf_special import NORMAL, UNUSED, USER_DEFINED
from runtime.gguf_vocab import SPACE


def sentencepiece(
    settings: dict[str, Any], tokens: list[str], types: list[int], merges: list[list[str]]
) -> dict[str, Any]:
    """Keys of a sentencepiece BPE with byte fallback."""
    return {
        "model": "llama",
        "pre": "default",  # what engines name the only rule this kind has
        "scores": scores(tokens, types, merges),
        "add_space_prefix": _space_prefix(settings),
    }


def _space_prefix(settings: dict[str, Any]) -> bool:
    """Whether a text gets a space before it; engines put one after special tokens as well.

    Raises UnsupportedError for any other rule. Metaspace's, which leaves a space that is there
    alone, has no spelling: tests/interop/test_metaspace.py tried what llama.cpp has.
    """
    found = steps(settings["normalizer"], "normalizers")
    cuts = steps(settings["pre_tokenizer"], "pretokenizers")
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prepend = {"type": "Prepend", "prepend": SPACE}
    at_spaces = [step for step in cuts if step.get("pattern") == spaces["pattern"]]
    # Gemma's cuts at spaces, of which its normalizer leaves none
    found += [step for step in cuts if spaces not in found or step not in at_spaces]
    if found in ([prepend, spaces], [spaces]):
        return prepend in found
    if [step["type"] for step in found] == ["Metaspace"] and found[0]["replacement"] == SPACE:
        scheme = found[0].get("prepend_scheme", "always")
        if scheme == "never" and found[0].get("split") is False:
            return False
        if scheme != "never":
            raise UnsupportedError(
                f"this tokenizer's Metaspace (prepend_scheme {scheme!r}) puts no space before a "
                "text that begins with one, GGUF's readers before every text or none, which gives "
                "other ids; take the tokenizer.json that the model was published with if its "
                f"normalizer is Prepend, as Llama 2's is, or {INSTEAD}"
            )
    raise UnsupportedError(
        f"GGUF has no name for this tokenizer's handling of spaces, {found}; {INSTEAD}"
    )


def scores(tokens: list[str], types: list[int], merges: list[list[str]]) -> list[float]:
    """A score for each token, so that the best one first gives the same words as the merge list.

    Sentencepiece joins any two neighbours that make a token. Raises EdgequantError when the merge
    list leaves such a pair out, or comes back to a token after others: no scores say that.
    """
    ranks: dict[str, int] = {}
    listed: set[tuple[str, str]] = set()
    last = ""
    for left, right in merges:
        word = left + right
        if word in ranks and word != last:
            raise _not_sentencepiece(f"comes back to {word!r}")
        ranks.setdefault(word, len(ranks))
        listed.add((left, right))
        last = word
    words = {token for token, kind in zip(tokens, types, strict=True) if joins(token, kind)}
    for word in words:
        for cut in range(1, len(word)):
            pair = word[:cut], word[cut:]
            if pair not in listed and pair[0] in words and pair[1] in words:
                raise _not_sentencepiece(f"leaves out {pair}")
    least = -float(len(ranks))
    by_type = {NORMAL: least, UNUSED: least}
    return [
        -float(ranks[token]) if token in ranks else by_type.get(token_type, 0.0)
        for token, token_type in zip(tokens, types, strict=True)
    ]


def joins(token: str, token_type: int) -> bool:
    """Whether readers make a token out of letters; others are found whole, before."""
    return token_type == NORMAL or (token_type == USER_DEFINED and SPACE in token)


def _not_sentencepiece(what: str) -> UnsupportedError:
    return UnsupportedError(
        f"tokenizer.json has byte fallback but its merge list {what}, unlike sentencepiece; "
        f"GGUF cannot say that: {INSTEAD}"
    )
