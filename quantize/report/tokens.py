"""Tokenizer round trip: the artifact must give the original's ids, and the original's text back."""

from collections.abc import Iterable
from dataclasses import dataclass

from quantize.report.torture import TORTURE
from runtime.tokenizer import Tokenizer


@dataclass(frozen=True)
class TokenizerCheck:
    """Texts that went through both tokenizers."""

    texts: int
    different: tuple[str, ...]
    """Texts for which the artifact's tokenizer gives other ids than the original's."""
    broken: tuple[str, ...]
    """Texts that the original gives back and the artifact does not."""
    lossy: tuple[str, ...]
    """Texts that already the original does not give back, such as ones its normalizer changes."""
    notes: tuple[str, ...]
    """Other differences, in sentences."""
    around: str = ""
    """What is put before and after a text, where the two differ in it."""


def check_tokenizer(
    original: Tokenizer, artifact: Tokenizer, texts: Iterable[str] = TORTURE
) -> TokenizerCheck:
    """Encode and decode every text with both, and texts with the original's own added tokens."""
    different, broken, lossy = [], [], []
    count = 0
    for text in (*texts, *own_texts(original)):
        count += 1
        expected, ids = original.encode(text), artifact.encode(text)
        if ids != expected:
            different.append(text)
        faithful = original.decode(expected) == text
        if not faithful:
            lossy.append(text)
        elif artifact.decode(ids) != text:
            broken.append(text)
    return TokenizerCheck(
        count,
        tuple(different),
        tuple(broken),
        tuple(lossy),
        settings_notes(original, artifact),
        around(original, artifact),
    )


def around(original: Tokenizer, artifact: Tokenizer) -> str:
    """Whether both put a text between the same ids: a sentence where they do not, else ""."""
    if (original.prefix, original.suffix) == (artifact.prefix, artifact.suffix):
        return ""
    return (
        f"its tokenizer puts {list(artifact.prefix)} before a text and {list(artifact.suffix)} "
        f"after it, the original's {list(original.prefix)} and {list(original.suffix)}"
    )


def own_texts(tokenizer: Tokenizer, most: int = 64) -> list[str]:
    """Texts with the tokens that were added to a vocabulary: the last `most` of them."""
    added = tokenizer.backend.get_added_tokens_decoder()
    texts = [added[index].content for index in sorted(added, reverse=True)[:most]]
    return [form.format(text) for text in texts for form in ("a{}b", "a {} b")]


def settings_notes(original: Tokenizer, artifact: Tokenizer) -> tuple[str, ...]:
    """Differences that the ids of a text do not show."""
    notes = []
    if missing := sorted(set(original.eos) - set(artifact.eos)):
        notes.append(f"the artifact does not stop at the original's end tokens {missing}")
    if artifact.eos and not original.eos:
        stops = artifact.decode(artifact.eos[:1])
        notes.append(f"the artifact's readers stop at {stops!r}, the original names no end token")
    if original.chat_template and not artifact.chat_template:
        notes.append("the artifact has no chat template, the original has one")
    elif original.chat_template != artifact.chat_template:
        notes.append("the artifact's chat template is not the original's")
    return tuple(notes)


def failures(check: TokenizerCheck | None) -> list[str]:
    """Sentences for what makes the tokenizer unfit; None means the artifact has none."""
    if check is None:
        return ["it has no tokenizer"]
    found = []
    if check.different:
        found.append(
            f"its tokenizer gives other ids than the original's for {len(check.different)} of "
            f"{check.texts} texts, such as {check.different[0]!r}"
        )
    if check.broken:
        found.append(
            f"its tokenizer does not give back {len(check.broken)} of {check.texts} texts, "
            f"such as {check.broken[0]!r}"
        )
    if check.around:
        found.append(check.around)
    return found
