"""Importance matrices made from text, and runs that take them instead of it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from quantize.calibration.imatrix import read
from quantize.calibration.make_imatrix import ImatrixRequest, collect, make
from quantize.calibration.rows import Rows
from quantize.checkpoint import bundled, open_checkpoint
from quantize.methods import HessianFactor
from quantize.methods.rtn import rtn
from quantize.plan import Plan
from quantize.run.forecast import forecast
from quantize.run.pipeline import run as run_plan
from quantize.run.resume import Work
from runtime.errors import EdgequantError
from runtime.gguf_file import read as read_gguf
from runtime.quant_types import QUANT_TYPES, numpy_of, to_numpy
from tests.conftest import CONFIGS, config
from tests.quantize.runs import LEAST, hold, small_plan, walk
from tests.quantize.test_rounding import dense_run
from tests.random_checkpoint import random_checkpoint

pytestmark = pytest.mark.numeric


def request(model: Path, output: Path, **changes: Any) -> ImatrixRequest:
    """Four windows of 64 tokens."""
    return ImatrixRequest(output, str(model), **({"rows": 4, "length": 64} | changes))


@pytest.mark.parametrize("name", CONFIGS)
def test_means_are_the_diagonals_of_a_dense_runs_hessians(
    name: str, random_models: dict[str, Path]
) -> None:
    checkpoint = open_checkpoint(random_models[name])
    ids = np.random.default_rng(0).integers(0, 4096, (5, 40))
    dense = dense_run(checkpoint.model(), ids)
    hidden = np.zeros((5, 40, 96), np.float32)
    found = collect(checkpoint, Rows(ids), hidden, tokens=80)  # two rows, and one left over
    means = {name: mean for name, mean, _ in found}
    assert list(means)[-1] == ("token_embd.weight" if checkpoint.arch.tied else "output.weight")
    assert means.keys() == dense.inputs.keys()
    for weight, mean in means.items():
        expected = dense.hessian(weight).diagonal().numpy()
        np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=1e-7)


def test_the_command_writes_what_it_collected_and_says_so(
    run: Any, random_models: dict[str, Path], tmp_path: Path
) -> None:
    output = tmp_path / "a.gguf"
    flags = ("--calib-rows", "4", "--calib-length", "64", "-o", output)
    code, out, err = run("imatrix", random_models["qwen2-untied"], *flags)
    assert code == 0
    assert out == f"{output}: {output.stat().st_size:,} bytes, 15 weights, 4 windows of 64 tokens\n"
    assert "layers: 2/2" in err
    found = read(output)
    assert set(found.counts.values()) == {256}
    assert (found.datasets, found.chunks, found.chunk_size) == (("builtin",), 4, 64)
    code, out, _ = run("imatrix", random_models["qwen2-untied"], *flags, "--overwrite", "--json")
    assert json.loads(out) == {
        "path": str(output),
        "bytes": output.stat().st_size,
        "entries": 15,
        "chunks": 4,
        "chunk_size": 64,
        "datasets": ["builtin"],
    }


def test_a_text_of_the_user_is_named_without_its_folder(
    random_models: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("The history of the city is long. " * 200)
    spec = str(tmp_path / "notes.txt")
    ask = request(random_models["qwen2-tied"], tmp_path / "a.gguf", calibration=spec, rows=1)
    assert make(ask).datasets == ("notes.txt",)


def test_hidden_states_go_to_disk_under_a_limit_and_nothing_changes(
    random_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, kinds = random_models["qwen2-tied"], []
    real = Work.allocate

    def watched(*args: Any) -> np.ndarray:
        kinds.append(type(room := real(*args)))
        return room

    monkeypatch.setattr(Work, "allocate", watched)
    make(request(model, tmp_path / "ram.gguf"))
    hold(monkeypatch, LEAST)
    make(request(model, tmp_path / "disk.gguf"))
    assert kinds == [np.ndarray, np.memmap]
    assert (tmp_path / "ram.gguf").read_bytes() == (tmp_path / "disk.gguf").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk.gguf", "ram.gguf"]


WRONG: dict[str, tuple[list[str], str]] = {
    "exists": ([], "a.gguf already exists; choose another name, or use --overwrite."),
    "rows": (["--overwrite", "--calib-rows", "0"], "rows must be at least 1, not 0."),
    "device": (["--overwrite", "--device", "abacus"], "device 'abacus' cannot be used ("),
    "text": (
        ["--overwrite", "--calibration", "none.txt", "--calib-length", "64"],
        "There is no calibration text none.txt",
    ),
    "length": (
        ["--overwrite", "--calib-length", "257"],
        "--calib-length must be at most the model's context of 256, not 257",
    ),
    "folder": (["-o", "nowhere/a.gguf"], "the folder nowhere does not exist; create it first."),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_flag_exits_with_2_and_leaves_the_old_file(
    what: str, run: Any, random_models: dict[str, Path], tmp_path: Path
) -> None:
    flags, message = WRONG[what]
    (tmp_path / "a.gguf").write_text("precious")
    code, out, err = run("imatrix", random_models["qwen2-tied"], "-o", tmp_path / "a.gguf", *flags)
    assert (code, out) == (2, "")
    assert message in err
    assert "layers" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]
    assert (tmp_path / "a.gguf").read_text() == "precious"


@pytest.mark.parametrize("name", ["qwen2-tied", "llama-untied"])
def test_a_run_rounds_with_the_importance_of_the_imatrix(
    name: str, random_models: dict[str, Path], tmp_path: Path
) -> None:
    given = make(request(random_models[name], tmp_path / "a.gguf"))
    plan = small_plan(
        random_models[name], "gguf:Q4_0", "gguf:Q2_K", imatrix=str(tmp_path / "a.gguf")
    )
    found = walk(plan, tmp_path / "work")
    assert not found.work.done("calibration")
    read_back = read(tmp_path / "a.gguf").means
    for target, assignment in enumerate(found.assignments):
        tensors = found.tensors(target)
        for weight, qtype in assignment.types.items():
            values = torch.from_numpy(np.array(found.checkpoint.tensors[weight].decode()))
            factor = (
                HessianFactor(torch.from_numpy(read_back[weight]))
                if weight in given.means
                else None
            )
            rounded = rtn(values, qtype, factor)
            packed = qtype.pack(numpy_of(rounded.codes), to_numpy(rounded.params))
            assert np.array_equal(tensors[weight].data, packed), weight


def test_losses_weigh_columns_by_their_importance(
    random_models: dict[str, Path], tmp_path: Path
) -> None:
    given = make(request(random_models["qwen2-tied"], tmp_path / "a.gguf"))
    plan = small_plan(random_models["qwen2-tied"], "onnx:int4", imatrix=str(tmp_path / "a.gguf"))
    found = walk(plan, tmp_path / "work")
    name = "blk.1.ffn_down.weight"
    weight, rounded = found.checkpoint.tensors[name].decode(), found.tensors()[name].decode()
    mean = given.means[name]
    expected = ((weight - rounded) ** 2 @ mean).sum() / (weight**2 @ mean).sum()
    losses = found.work.stages["plain/blk.1"]["losses"]
    assert losses["onnx:int4 ffn_down"] == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("qtype", QUANT_TYPES.values(), ids=lambda qtype: qtype.name)
def test_weights_whose_inputs_are_all_zero_are_still_rounded(qtype: Any) -> None:
    weight = torch.randn(4, 256, generator=torch.Generator().manual_seed(0))
    rounded = rtn(weight, qtype, HessianFactor(torch.zeros(256)))
    assert bool(torch.isfinite(rounded.value).all())
    assert qtype.pack(numpy_of(rounded.codes), to_numpy(rounded.params)).shape[0] == 4


def test_a_written_file_says_which_imatrix_it_was_made_with(
    random_models: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "notes.gguf"
    make(request(random_models["qwen2-tied"], path))
    flags = {"imatrix": str(path), "check": False, "output": str(tmp_path / "out")}
    plan = small_plan(random_models["qwen2-tied"], "gguf:Q4_0", "onnx:int4", **flags)
    run_plan(plan)
    metadata = read_gguf(tmp_path / "out" / "qwen2-tied-Q4_0.gguf").metadata
    assert {key: value for key, value in metadata.items() if key.startswith("quantize.")} == {
        "quantize.imatrix.file": "notes.gguf",
        "quantize.imatrix.dataset": "builtin",
        "quantize.imatrix.entries_count": 15,
        "quantize.imatrix.chunks_count": 4,
    }
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert metadata["edgequant.imatrix_sha256"] == digest
    assert json.loads(metadata["edgequant.plan"])["imatrix"] == "notes.gguf"
    assert metadata["edgequant.calibration_sha256"] == ""


def other_model(folder: Path) -> Path:
    """A checkpoint like qwen2-tied, but wider."""
    random_checkpoint(folder, config("qwen2-tied", hidden_size=192), bundled())
    return folder


@pytest.mark.parametrize("what", [run_plan, forecast])
def test_the_imatrix_of_another_model_is_refused_before_any_work(
    what: Any, random_models: dict[str, Path], tmp_path: Path
) -> None:
    make(request(other_model(tmp_path / "other"), tmp_path / "a.gguf"))
    plan = small_plan(
        random_models["qwen2-tied"],
        "gguf:Q4_0",
        imatrix=str(tmp_path / "a.gguf"),
        output=str(tmp_path / "out"),
    )
    with pytest.raises(EdgequantError, match="has 96 channels and the imatrix 192; .*another mode"):
        what(plan)
    assert not (tmp_path / "out").exists()


def test_a_model_whose_states_overflow_leaves_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    random_checkpoint(folder, config("qwen2-tied"), bundled())
    shard = folder / "model-0.safetensors"
    tensors = load_file(shard)
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = torch.full_like(tensors[name], 1e38)
    save_file(tensors, shard)
    with pytest.raises(
        EdgequantError, match=r"^blk.0.ffn_down.weight reads inputs that are NaN or"
    ):
        make(request(folder, tmp_path / "a.gguf"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_plan_takes_its_defaults_to_the_request() -> None:
    ask, plan = ImatrixRequest(Path("a.gguf")), Plan.from_flags(None, {"to": ["onnx:int4"]})
    names = ("model", "calibration", "rows", "length", "seed", "max_ram", "device", "overwrite")
    assert all(getattr(ask, name) == getattr(plan, name) for name in names)


@pytest.mark.slow
def test_the_card_of_a_run_names_the_imatrix(
    random_models: dict[str, Path], tmp_path: Path
) -> None:
    make(request(random_models["qwen2-tied"], tmp_path / "notes.gguf"))
    flags = {"imatrix": str(tmp_path / "notes.gguf"), "output": str(tmp_path / "out")}
    judging = {"eval_rows": 1, "eval_length": 64}
    run_plan(small_plan(random_models["qwen2-tied"], "gguf:Q8_0", **flags, **judging))
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "`rtn`, importance matrix `notes.gguf`)" in card
