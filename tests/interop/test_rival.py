"""The rivals of bench/accuracy.py are what their makers' own tools would write."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import accuracy, judge, rival
from quantize.checkpoint import Checkpoint
from quantize.exact.exact import exact
from quantize.report.scan import scan
from runtime.errors import EdgequantError
from runtime.gguf_file import open_gguf

pytest.importorskip(
    "xllamacpp", reason="xllamacpp is not installed: pip install 'edgequant[interop]'"
)
PRESETS = ("Q4_0", "Q2_K")


@pytest.fixture(scope="module")
def matrix(tiny: Checkpoint) -> rival.Importance:
    return rival.importance(tiny, rows=4)


@pytest.fixture(scope="module")
def base(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rival.full_precision(tiny, tmp_path_factory.mktemp("base") / "F32.gguf")


@pytest.fixture(scope="module")
def files(
    tiny: Checkpoint, matrix: rival.Importance, base: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("rival")
    for preset in PRESETS:
        rival.by_blocks(tiny, base, folder / f"{preset}.gguf", preset, matrix)
    return {preset: folder / f"{preset}.gguf" for preset in PRESETS}


def test_the_matrix_has_every_linear_and_stages_share_it(matrix: rival.Importance) -> None:
    assert len(matrix) == 6 * 7
    assert np.array_equal(matrix["blk.2.ffn_gate.weight"], matrix["blk.2.ffn_up.weight"])
    assert matrix["blk.2.ffn_down.weight"].shape == (768,)


def test_a_rival_runs_in_llamacpp_and_fewer_bits_cost_more(
    tiny: Checkpoint, base: Path, files: dict[str, Path]
) -> None:
    from runtime.backends.llamacpp import open as open_llamacpp

    engines = {preset: open_llamacpp(path) for preset, path in files.items()}
    found = judge.judge(open_llamacpp(base), engines, judge.read(tiny, [], 1))
    assert 0 < found["Q4_0"].mean < 0.1 < found["Q2_K"].mean < 1


@pytest.mark.parametrize("preset", PRESETS)
def test_nothing_in_a_good_file_of_llamacpp_is_blamed(
    tiny: Checkpoint, files: dict[str, Path], preset: str
) -> None:
    artifact = open_gguf(files[preset])
    found = scan(tiny.model(), artifact)
    assert (found.problems, found.faults) == ((), ())
    assert exact(tiny, files[preset], "gguf", artifact).differences == ()


def test_the_matrix_changes_the_linears_alone(
    tiny: Checkpoint, base: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    rival.by_blocks(tiny, base, tmp_path / "plain.gguf", "Q4_0", {})
    plain, weighted = open_gguf(tmp_path / "plain.gguf").tensors, open_gguf(files["Q4_0"]).tensors
    changed = {n for n in plain if not np.array_equal(plain[n].data, weighted[n].data)}
    assert changed == {name for name in plain if name.startswith("blk.") and plain[name].shape[1:]}


@pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None,
    reason="llama-cpp-python is not installed: pip install llama-cpp-python (compiles for minutes)",
)
@pytest.mark.parametrize("preset", PRESETS)
def test_files_of_both_packages_hold_the_same_bytes(
    preset: str, base: Path, matrix: rival.Importance, files: dict[str, Path], tmp_path: Path
) -> None:
    rival.by_llamacpp(base, tmp_path / "made.gguf", preset, matrix)
    theirs, ours = open_gguf(tmp_path / "made.gguf").tensors, open_gguf(files[preset]).tensors
    for name, tensor in theirs.items():
        assert ours[name].qtype is tensor.qtype
        assert np.array_equal(ours[name].data, tensor.data), name


@pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None,
    reason="llama-cpp-python is not installed: pip install llama-cpp-python (compiles for minutes)",
)
def test_a_base_that_llamacpp_cannot_read_is_refused(
    matrix: rival.Importance, tmp_path: Path
) -> None:
    with pytest.raises(EdgequantError, match="llama.cpp refused to make Q4_0"):
        rival.by_llamacpp(tmp_path / "none.gguf", tmp_path / "made.gguf", "Q4_0", matrix)


def test_without_either_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(EdgequantError, match=r"needs xllamacpp or llama-cpp-python; pip install"):
        rival.ggml.__wrapped__()


@pytest.mark.slow
def test_the_table_shows_both_files_and_their_ratio(tmp_path: Path) -> None:
    settings = accuracy.Settings(
        models=("tiny",),
        texts=(),
        chunks=2,
        derived=tmp_path,
        presets=("Q4_0",),
        algorithms=(),
        same_mixture=True,
        jobs=1,
    )
    every, text = accuracy.against_llamacpp("tiny", settings, tmp_path)
    assert (every["text"], text["text"]) == ("all", "builtin")
    assert every["ours_bytes"] == pytest.approx(every["rival_bytes"], abs=4096)  # the provenance
    assert every["ratio"] == every["ours_kl"] / every["rival_kl"]
    assert 0 < every["ratio"] < 1
