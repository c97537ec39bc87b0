"""The tokens of an artifact, against the original's: texts, merges, kinds, and special ones."""

import json
from collections.abc import Iterator
from typing import Any

from export.stated import Difference, compared
from runtime.tokenizer import Tokenizer


def vocabulary(found: Tokenizer, original: Tokenizer) -> Iterator[Difference]:
    """Token by token and merge by merge. Rules of cutting are tried on texts (report/tokens.py).

    Containers put them into other forms, so what is compared is what all of them say.
    """
    ours, theirs = (
        {i: t for t, i in side.backend.get_vocab().items()} for side in (found, original)
    )
    apart = sorted(i for i, text in theirs.items() if ours.get(i) != text)
    if apart:
        at, more = apart[0], f" ({len(apart):,} tokens differ)" if len(apart) > 1 else ""
        yield Difference(f"token {at}", json.dumps(ours.get(at)), json.dumps(theirs[at]) + more)
    yield from compared("merges", merges(found), merges(original))
    for name in ("bos", "prefix", "suffix"):
        yield from compared(f"tokenizer {name}", getattr(found, name), getattr(original, name))


def texts(tokenizer: Tokenizer) -> dict[int, str]:
    """The text of each token."""
    return {index: text for text, index in tokenizer.backend.get_vocab().items()}


def merges(tokenizer: Tokenizer) -> list[Any]:
    """The pairs that become one token, in their order; none where it has no such rules."""
    model = tokenizer.settings()["model"]
    pairs = model.get("merges") or []
    return [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in pairs]
