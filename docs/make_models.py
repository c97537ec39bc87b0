"""Write docs/models.md: every release small, run in the engine of each container (some minutes)."""

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "models.md"

HEAD = """# Models that go in, and what comes out

Written by `python docs/make_models.py`. Each release is made small, with random weights and its
true structure: heads a key-value head, widths that blocks divide as they divide the true ones,
key biases of norm 900 where it has them, numbers of experts, rope, tied or not; releases that
differ in sizes alone share a row, and the one named first is made. (Qwen2-57B-A14B alone has
eight heads a key-value head in place of seven.) The small one is quantized from end to end with
calibration (`--effort low`), as F32 and Q4_K_M for GGUF and as fp32 and int4 for ONNX, and the
files are run in llama.cpp, with keys and values in float32, and in onnxruntime. A cell has the KL
from transformers, which runs the checkpoint itself, in nats a token: of the file without
quantization, then of the quantized one. Of models that read images it is that of text; their
towers are judged in `tests/interop/test_images_llamacpp.py` and `test_images_genai.py`. Of models
that score texts a cell has the largest deviation of a score, in standard deviations of the scores,
and the rank correlation of the quantized file's; heads that transformers has no class for are held
against our own run of the original. What cannot be right in a container is refused before any work,
with the sentence shown. `tests/interop/test_releases.py` runs the same cells, and fails where a
file without quantization differs by 1e-6 or more (1e-5 with rope on three axes in llama.cpp, 1e-4
of a score).

| release | GGUF in llama.cpp: F32; Q4_K_M | ONNX in onnxruntime: fp32; int4 |
|---|---|---|
"""


def text() -> str:
    """The text of the page, measured."""
    sys.path.insert(0, str(ROOT))
    from tests.small_releases import TARGETS, alike, measure

    rows = []
    for releases in alike():
        release, cells = releases[0], []
        for container in TARGETS:
            with tempfile.TemporaryDirectory() as folder:
                cells.append(str(measure(release, container, Path(folder))))
        names = ", ".join(one.name for one in releases)
        rows.append(f"| {' | '.join([names, *cells])} |")
        print(rows[-1], flush=True)
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
