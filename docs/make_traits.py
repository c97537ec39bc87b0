"""Write docs/traits.md: what becomes of the traits of real checkpoints, as the tests have it."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "traits.md"

HEAD = """# What checkpoints have, and what becomes of it

Written by `docs/make_traits.py` from `tests/traits.py`; a test fails when it is out of date.
`tests/interop/test_traits.py` makes a small model with each trait, writes it as GGUF in F32 and as
ONNX in float32, and runs the file in llama.cpp and in onnxruntime. "Equal" means that transformers,
which reads the checkpoint itself, gives the same logits (KL below 1e-7 nats a token in onnxruntime;
below 1e-4 in llama.cpp, whose keys and values are float16) and the same token ids of all texts that
`check` tries, those with the model's own added tokens among them, and what is put before and after
them. "Told" means that the rules of tokenizer.json are kept where transformers has others, and that
a note has the words shown. Anything else is refused before any work, with a sentence that has the
words shown.

| trait | GGUF | ONNX |
|---|---|---|
"""


def text() -> str:
    """The text of the page."""
    sys.path.insert(0, str(ROOT))
    from tests.traits import TRAITS

    def becomes(refused: str, told: str) -> str:
        return f"refused: {refused}" if refused else f"told: {told}" if told else "equal"

    rows = [[t.name, becomes(t.gguf, t.told), becomes(t.onnx, t.told)] for t in TRAITS]
    return HEAD + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
