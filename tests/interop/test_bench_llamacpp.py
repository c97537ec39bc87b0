"""`quantize bench --against llama.cpp`: both engines do the same work on the same file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from export.gguf import write
from quantize.checkpoint import Checkpoint
from tests.small_models import rounded

pytest.importorskip("xllamacpp", reason="xllamacpp is not installed (extra `interop`)")
pytest.importorskip("runtime._native", reason="the kernels are not compiled")

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--threads", "1", "--prompt", "32", "--generate", "4", "--context", "9", "--repeat", "3"]


@pytest.mark.slow
def test_both_engines_are_measured_and_compared_round_by_round(
    tiny: Checkpoint, tmp_path: Path
) -> None:
    path = tmp_path / "a.gguf"
    write(path, tiny.arch, rounded(tiny, "Q8_0"), tiny.folder, {})
    words = ["bench", str(path), "--against", "llama.cpp", *SMALL, "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "quantize.cli", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    ours, theirs = result["engines"]
    assert (ours["engine"], theirs["engine"]) == ("native", "llamacpp")
    assert ours["instruction_set"]
    figures = "prompt_tokens_per_second", "generate_tokens_per_second", "load_seconds"
    for name, figure in zip(("prompt", "generate", "load"), figures, strict=True):
        pairs = zip(ours[figure]["rounds"], theirs[figure]["rounds"], strict=True)
        ratios = sorted(b / a if name == "load" else a / b for a, b in pairs)
        assert result["ratios"][name] == ratios[1]
    # llama.cpp maps the file; an engine that has run has it in memory in one way or another
    for engine in (ours, theirs):
        assert engine["memory_bytes"]["resident"] > result["file_bytes"]
