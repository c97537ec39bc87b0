"""Special tokens of a GGUF, as llama.cpp finds them: by their keys, and by their texts.

A converter may name one end token and leave the others to the engine, which knows them by what
they say (src/llama-vocab.cpp). tests/interop/test_precedence_llamacpp.py compares.
"""

from collections.abc import Mapping
from typing import Any

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""`tokenizer.ggml.token_type`."""

DEFAULTS = {"gpt2": {"bos": 11, "eos": 11}, "llama": {"bos": 1, "eos": 2}}
"""Kind of vocabulary -> the ids that llama.cpp takes where the file names none."""

ENDS = frozenset(
    ("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>")
    + ("<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]")
    + ("<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "[e~[")
    + ("<\uff5cend\u2581of\u2581sentence\uff5c>",)
)
"""Tokens that end a text whatever the keys say."""

FILLERS = {
    "fim_pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep": ("<|file_sep|>",),
}
"""Tokens of code models that end a text too: the one that a key names, else one of these texts."""

SHOWN = frozenset(("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"))
"""Tokens that are always part of the text that a user sees."""


def default_id(kind: str, name: str, vocab: int) -> int | None:
    """The id of a special token that a file with this kind of vocabulary leaves out."""
    found = DEFAULTS[kind][name]
    return found if found < vocab else None


def end_tokens(metadata: Mapping[str, Any], tokens: list[str], named: list[int]) -> list[int]:
    """Every id that ends a text: those that keys name, then those known by their texts."""
    keys = (metadata.get(f"tokenizer.ggml.{name}_token_id") for name in FILLERS)
    fillers = [key for key in keys if isinstance(key, int) and 0 <= key < len(tokens)]
    known = ENDS.union(_fillers(metadata, tokens))
    by_text = [index for index, token in enumerate(tokens) if token in known]
    inside = _inside(tokens)
    return [i for i in dict.fromkeys([*named, *fillers, *by_text]) if tokens[i] not in inside]


def token_types(metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> list[int]:
    """Types as llama.cpp takes them: it corrects those of tokens whose text it knows."""
    known = dict.fromkeys(ENDS.union(_fillers(metadata, tokens)), CONTROL)
    known |= dict.fromkeys(SHOWN, USER_DEFINED) | _inside(tokens)
    return [known.get(token, kind) for token, kind in zip(tokens, types, strict=True)]


def stripping(metadata: Mapping[str, Any], tokens: list[str]) -> set[str]:
    """Special tokens that take the spaces after them: of a model whose name says Phi-3."""
    name = str(metadata.get("general.name", "")).lower()
    if "phi-3" not in name and "phi3" not in name:
        return set()
    return set(tokens) - {"<unk>", "<s>", "<|endoftext|>"}


def _fillers(metadata: Mapping[str, Any], tokens: list[str]) -> list[str]:
    """Texts of FILLERS that count: of several of one name llama.cpp takes any, here the first."""
    found = []
    for name, texts in FILLERS.items():
        present = [token for token in tokens if token in texts]
        if present and not isinstance(metadata.get(f"tokenizer.ggml.{name}_token_id"), int):
            found.append(present[0])
    return found


def _inside(tokens: list[str]) -> dict[str, int]:
    """Texts of ENDS that end no text here, as the vocabulary has others for that -> their types."""
    present = ENDS.intersection(tokens)
    found = {}
    if present & {"<|call|>", "<|calls|>"} and present & {"<|return|>", "<|flush|>"}:
        found["<|end|>"] = USER_DEFINED
    if "<|tool_response>" in present:
        found["</s>"] = NORMAL
    return found
