"""`quantize score`: what a reward model or classifier makes of texts."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from calib_data.document import Unusable, first_line, rendered
from calib_data.files import read_file
from runtime.engine import Engine
from runtime.errors import EdgequantError, InputError
from runtime.scores import early, head_of, scores, text_ids
from runtime.tokenizer import Tokenizer

SHOWN = 60
"""Characters of a text on the screen."""


@dataclass(frozen=True)
class ScoredText:
    """A text and its scores."""

    text: str
    tokens: int
    scores: list[list[float]]
    """Of each place where it is read, of each label: one place, or one for each marker."""
    early: bool
    """Whether it ends with the padding id, before which transformers scores it."""


def texts_in(path: Path, tokenizer: Tokenizer | None) -> Iterator[str]:
    """The documents of a .txt, .json, .jsonl or .parquet file, conversations as the chat template
    writes them. Raises InputError for one that is not readable."""
    dropped: Counter[str] = Counter()
    for number, content in enumerate(read_file(path), 1):
        reason = content.reason if isinstance(content, Unusable) else ""
        if isinstance(content, str):
            yield content
            continue
        if not isinstance(content, Unusable | tuple) and tokenizer is not None:
            try:
                yield rendered(content, tokenizer, dropped)
                continue
            except ValueError as error:
                reason = first_line(error)
        raise InputError(
            f"text {number} of {path} cannot be scored ({reason or 'there is no tokenizer'}); "
            "mend it or leave it out."
        )


def score_texts(engine: Engine, texts: Iterable[str]) -> list[ScoredText]:
    """Every text with its scores. Raises EdgequantError, naming the text, for one without any."""
    head, found = head_of(engine), []
    for number, text in enumerate(texts, 1):
        try:
            ids = text_ids(engine.tokenizer, text)
            values = scores(engine, ids)
        except EdgequantError as error:
            raise type(error)(f"text {number}: {error}") from error
        rows = [[float(value) for value in row] for row in values]
        found.append(ScoredText(text, len(ids), rows, early(head, ids)))
    if not found:
        raise InputError("there is nothing to score; give --text, or --file with texts.")
    return found


def as_json(found: list[ScoredText]) -> list[dict[str, Any]]:
    """As JSON values."""
    return [{"text": one.text, "tokens": one.tokens, "scores": one.scores} for one in found]


def table(found: list[ScoredText]) -> RenderableType:
    """A line for each text, and a note of those that transformers scores otherwise."""
    shown = Table("scores", "tokens", "text", box=None, pad_edge=False)
    for one in found:
        values = ", ".join(" ".join(f"{value:.6g}" for value in row) for row in one.scores)
        line = " ".join(one.text.split())
        start = line if len(line) <= SHOWN else f"{line[: SHOWN - 3]}..."
        shown.add_row(values, str(one.tokens), Text(start))
    count = sum(one.early for one in found)
    note = (
        f"{count} of the texts end with the padding token: they are scored there, and by "
        "transformers at the last token before it."
    )
    return Group(shown, note) if count else shown
