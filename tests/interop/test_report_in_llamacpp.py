"""A report made in llama.cpp says the same about a file as one made in our own engine."""

from pathlib import Path

import pytest

from export import CONTAINERS
from quantize.checkpoint import Checkpoint
from quantize.report.judge import check_files
from quantize.report.report import ArtifactResult
from tests.quantize.report.conftest import Steps, rounded

pytest.importorskip(
    "xllamacpp", reason="xllamacpp is not installed: pip install 'edgequant[interop]'"
)


def judged(path: Path, checkpoint: Checkpoint, backend: str) -> ArtifactResult:
    flags = {"eval_rows": 4, "eval_length": 128}
    report = check_files([path], str(checkpoint.folder), None, backend, flags, Steps())
    assert report.failures == []
    return report.results[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K"])
def test_llama_cpp_finds_the_divergence_that_we_find(
    kind: str, tiny: Checkpoint, tmp_path: Path
) -> None:
    path = tmp_path / f"tiny-{kind}.gguf"
    CONTAINERS["gguf"].write(path, tiny.arch, rounded(tiny, kind), tiny.folder, {})
    ours, theirs = (judged(path, tiny, backend) for backend in ("numpy", "llamacpp"))
    assert (ours.backend, theirs.backend) == ("numpy", "llamacpp")
    # llama.cpp rounds activations to 8 bits, which adds a little of its own
    noise = 3e-4
    assert theirs.metrics.kl == pytest.approx(ours.metrics.kl, rel=0.1, abs=noise)
    assert theirs.metrics.ppl_original == ours.metrics.ppl_original
    assert theirs.metrics.ppl == pytest.approx(ours.metrics.ppl, rel=0.01)
    assert theirs.tensors == ours.tensors
