"""From documents to windows: join the tokens of a domain, share out the rows, cut."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from calib_data.document import (
    SHORTEST,
    UNREADABLE,
    UNRENDERED,
    WITHOUT_TOOLS,
    CalibrationTokenizer,
    Document,
    Part,
    encode,
    shown,
)

LEFT_OUT = {
    UNREADABLE: "{} rows left out, {}",
    UNRENDERED: "{} conversations left out, {}",
    WITHOUT_TOOLS: "the chat template has no place for the tools of {} conversations",
}
"""How a reason begins -> the line that tells of it."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Token windows to calibrate or judge a model with, and what was left out to make them."""

    ids: NDArray[np.int32]  # (rows, length)
    domains: tuple[str, ...]  # (rows,) prose, chat, code, math, tools, languages; user; self
    documents: int  # that have at least one token in ids
    dropped: tuple[tuple[int, str], ...]  # (count, reason), reasons in the order they came up
    part: Part
    unread: tuple[str, ...] = ()  # columns of the source that hold something nobody reads

    @property
    def rows(self) -> int:
        return len(self.ids)

    @property
    def tokens(self) -> int:
        return int(self.ids.size)

    @cached_property
    def sha256(self) -> str:
        """Hex digest of ids as little-endian int32, row by row: names this exact text."""
        return hashlib.sha256(self.ids.astype("<i4").tobytes()).hexdigest()

    @property
    def left_out(self) -> tuple[str, ...]:
        """What of the source could not be read or rendered, a line for each reason."""
        lines = []
        for count, reason in self.dropped:
            for beginning, line in LEFT_OUT.items():
                if reason.startswith(beginning):
                    lines.append(line.format(count, reason.removeprefix(beginning)))
        if self.unread:
            lines.append(self.not_read)
        return tuple(f"{self.part} text: {line}" for line in lines)

    @property
    def not_read(self) -> str:
        """The columns that hold something and are not part of the text."""
        return f"columns not read: {shown(self.unread)}"

    def summary(self) -> str:
        """Say in one line what is in the windows and what is not."""
        counts = sorted(Counter(self.domains).items())
        spread = ", ".join(f"{domain} {count}" for domain, count in counts)
        line = (
            f"{self.part}: {self.rows} windows of {self.ids.shape[1]} tokens "
            f"from {self.documents} documents ({spread})"
        )
        if self.dropped:
            line += "; dropped: " + ", ".join(
                f"{reason} ({count})" for count, reason in self.dropped
            )
        return f"{line}; {self.not_read}" if self.unread else line


@dataclass(frozen=True)
class Stream:
    """The tokens of one domain, one document after the other."""

    ids: NDArray[np.int32]  # (tokens,)
    starts: NDArray[np.int64]  # (documents,) where each document's first token lies in ids
    unread: int  # documents that were not tokenized because there was enough


def join(
    documents: list[Document],
    tokenizer: CalibrationTokenizer,
    need: int | None,
    dropped: Counter[str],
) -> Stream:
    """Tokenize documents in order until `need` tokens are there (None: all of them)."""
    ids: list[int] = []
    starts: list[int] = []
    for position, item in enumerate(documents):
        if need is not None and len(ids) >= need:
            unread = len(documents) - position
            break
        most = None if need is None else need - len(ids) + 1
        tokens = encode(item, tokenizer, dropped, most)
        if tokens is None:
            continue
        if len(tokens) < SHORTEST:
            dropped[f"shorter than {SHORTEST} tokens"] += 1
            continue
        # a chat template may write the token that begins a text itself
        if starts and tokenizer.separator is not None and tokens[0] != tokenizer.separator:
            ids.append(tokenizer.separator)
        starts.append(len(ids))
        ids += tokens
    else:
        unread = 0
    return Stream(np.array(ids, np.int32), np.array(starts, np.int64), unread)


def allot(weights: Mapping[str, float], capacity: Mapping[str, int], rows: int) -> dict[str, int]:
    """Share rows out in proportion to weights; what a domain cannot fill goes to the others.

    Largest remainders get the odd rows. The sum is rows, or the whole capacity when that is less.
    """
    given = dict.fromkeys(weights, 0)
    left = min(rows, sum(capacity.values()))
    while left:
        takers = [domain for domain in weights if given[domain] < capacity[domain]]
        total = sum(weights[domain] for domain in takers)
        exact = {domain: left * weights[domain] / total for domain in takers}
        share = {domain: int(exact[domain]) for domain in takers}
        by_remainder = sorted(takers, key=lambda domain: share[domain] - exact[domain])
        for domain in by_remainder[: left - sum(share.values())]:
            share[domain] += 1
        for domain in takers:
            given[domain] += min(share[domain], capacity[domain] - given[domain])
        left = min(rows, sum(capacity.values())) - sum(given.values())
    return given


def cut(
    stream: Stream, count: int, length: int, dropped: Counter[str]
) -> tuple[NDArray[np.int32], int]:
    """Cut the first `count` windows; returns ids (count, length) and the documents in them."""
    end = count * length
    used = int((stream.starts < end).sum())
    if stream.unread or len(stream.ids) // length > count:
        unused = stream.unread + len(stream.starts) - used
        dropped["documents beyond the requested rows"] += unused
    else:
        dropped["tokens left over after the last full window"] += len(stream.ids) - end
    return stream.ids[:end].reshape(count, length), used
