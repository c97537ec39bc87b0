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

Onnxruntime takes token ids. Onnxruntime-genai makes them, too, with a tokenizer of its own that
reads less of tokenizer.json than the tokenizers library. The last column says whether the ids of
version 0.18 are equal, or which words stand in the note that a run gives before any work, in the
report and, as `reader_notes`, in the artifact. Most say "NFC", because most of these models have
the tokenizer of Qwen2: texts in which a letter and its accent are two characters get other ids.

| trait | GGUF | ONNX | onnxruntime-genai's tokenizer |
|---|---|---|---|
"""


def text() -> str:
    """The text of the page."""
    sys.path.insert(0, str(ROOT))
    from tests.traits import TRAITS, Trait

    def becomes(refused: str, told: str) -> str:
        return f"refused: {refused}" if refused else f"told: {told}" if told else "equal"

    def noted(trait: Trait) -> str:
        if trait.onnx:
            return "refused"
        return f"noted: {trait.genai}" if trait.genai else "equal"

    rows = [[t.name, becomes(t.gguf, t.told), becomes(t.onnx, t.told), noted(t)] for t in TRAITS]
    return HEAD + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
