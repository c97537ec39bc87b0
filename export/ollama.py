"""The Modelfile with which ollama makes a model of a GGUF file.

What it says is read off the written file, since ollama does not look there itself: it sends its
own sampling settings with every request, and a Go template of a Modelfile goes before the chat
template of the file (versions before 0.30 knew no other).
https://docs.ollama.com/modelfile has the syntax; of unprintable characters nothing is kept there.
"""

import re
from pathlib import Path

from export.base import Companion
from export.go_template import go_template
from runtime import shell
from runtime.errors import UnsupportedError
from runtime.gguf_parts import read_parts
from runtime.tokenizer import Tokenizer

MARK = "# Made by edgequant for ollama"
"""How each begins."""

READS_TEMPLATES = "0.30.0"
"""The first version that runs the chat template in the file."""

CUTS = "# The chat template cuts white space around messages as well, which no Go template can."
NO_SYSTEM = "# The chat template has no place for a system message, so there is none here."

SAMPLING = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repeat_penalty",
    "penalty_last_n": "repeat_last_n",
}
"""llama.cpp's general.sampling.KEY -> ollama's parameter."""


def modelfile(path: Path) -> str:
    """The Modelfile for the GGUF file `path`.

    Raises UnsupportedError for a file whose name no Modelfile can say.
    """
    if not sayable(path.name) or "\n" in path.name:
        raise UnsupportedError(
            f"a Modelfile cannot say {path.name!r}; rename the file to make one for ollama."
        )
    metadata = read_parts(path)[0].metadata
    tokens = metadata["tokenizer.ggml.tokens"]
    tokenizer = Tokenizer.from_gguf(metadata, len(tokens))
    named = shell.word(MODELFILE.path(path).name)
    create = f"ollama create {model_name(path.stem)} -f {named}"
    lines = [f"{MARK}: {create}", f"FROM ./{path.name}"]
    if tokenizer:
        lines += _template(tokenizer)
        ends = [str(tokens[end]) for end in tokenizer.eos]
        lines += [f'PARAMETER stop "{end}"' for end in ends if sayable(end)]
    drawn = [
        f"PARAMETER {parameter} {metadata[f'general.sampling.{key}']:.6g}"
        for key, parameter in SAMPLING.items()
        if f"general.sampling.{key}" in metadata
    ]
    lines += drawn or ["# The model does not ask for sampling, so ollama's own settings hold."]
    context = metadata[f"{metadata['general.architecture']}.context_length"]
    lines += [
        f"# It reads up to {context} tokens; ollama makes room for fewer where memory is short.",
        f"# PARAMETER num_ctx {context}",
    ]
    return "\n".join(lines) + "\n"


def model_name(text: str) -> str:
    """A model's name as ollama takes it."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._") or "model"


def sayable(text: str) -> bool:
    """Whether a quoted value of a Modelfile can hold a text."""
    return '"""' not in text and all(c.isprintable() or c in "\n\t" for c in text)


def _template(tokenizer: Tokenizer) -> list[str]:
    """How a chat becomes a prompt."""
    if not tokenizer.chat_template:
        return ["# The model has no chat template.", 'TEMPLATE "{{ .Prompt }}"']
    found = go_template(tokenizer)
    pieces = [*found.before.values(), *found.after.values(), found.opening] if found else ["{{"]
    if found is None or not sayable(found.text()) or any("{{" in piece for piece in pieces):
        return [
            "# No Go template says what the chat template does; ollama runs that of the file.",
            f"REQUIRES {READS_TEMPLATES}",
        ]
    notes = [CUTS] * found.cuts + [NO_SYSTEM] * ("system" not in found.after)
    return [*notes, f'TEMPLATE """{found.text()}"""']


MODELFILE = Companion(".Modelfile", MARK, modelfile)
"""What goes beside a GGUF file."""
