"""`--ray` without Ray: what is refused before any work, and what is counted."""

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quantize.calibration.compensation import Compared, compare
from quantize.calibration.hessian import Hessians
from quantize.calibration.stream import OriginalLayers
from quantize.calibration.workers import Batch
from quantize.checkpoint import bundled, open_checkpoint
from quantize.run import pipeline
from quantize.run.key import key_of
from quantize.run.version import code_version
from quantize.scale import connect
from quantize.scale.facts import Source, facts, refuse_other
from quantize.scale.sizes import batch_bytes, nbytes, store_room, worth
from runtime.backends.torch import TorchOps
from runtime.errors import EdgequantError
from runtime.forward import Positions
from tests.moe_models import QWEN2, moe
from tests.quantize.runs import small_plan

BUNDLED = bundled()


def source(model: Path = BUNDLED) -> Source:
    """What every node must have for a run of a model."""
    fingerprint = open_checkpoint(BUNDLED).fingerprint()
    return Source(str(model), (), ("gguf",), code_version(), fingerprint, threads=1)


def refused(output: Path, *targets: str, model: Path = BUNDLED, **changes: Any) -> str:
    """The sentence of a run with --ray, which leaves nothing behind."""
    flags = {"ray": "127.0.0.1:1", "check": False, "output": str(output)} | changes
    plan = small_plan(model, *(targets or ("gguf:Q4_0",)), **flags)
    with pytest.raises(EdgequantError) as error:
        pipeline.run(plan)
    assert not output.exists()
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"method": "rtn"}, "--ray does not spread --method rtn"),
        ({"effort": "high"}, "--ray does not spread --effort high"),
        ({"max_ram": 64.0}, "--ray does not spread a run under --max-ram"),
    ],
)
def test_a_run_that_is_not_made_of_pieces_is_refused(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    assert told in refused(tmp_path / "out", **changes)


def test_experts_are_refused(tmp_path: Path) -> None:
    model = moe(tmp_path / "moe", QWEN2)
    assert "--ray does not spread the experts of moe" in refused(tmp_path / "out", model=model)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "find_spec", lambda name: None)
    assert "pip install 'edgequant[ray]'" in refused(tmp_path / "out")


@pytest.mark.parametrize(
    "address", ["nowhere", "ray://host:1", ":1", "host:", "host:-1", "a:99999", "a:0"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(EdgequantError, match="no address of a Ray cluster"):
        connect.probe(address)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no-such-host.invalid:1", "a..b:1"])
def test_an_address_where_nobody_answers_is_told(address: str) -> None:
    with pytest.raises(EdgequantError, match=f"no Ray cluster takes work at {address}"):
        connect.probe(address)


def test_somebody_who_is_not_ray_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "CONNECT", 0.2)
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, pytest.raises(EdgequantError, match="no Ray cluster takes work"):
        connect.probe(f"127.0.0.1:{silent.getsockname()[1]}")


def test_a_node_like_this_machine_is_taken() -> None:
    mine = facts(source())
    refuse_other("10.0.0.2", {"facts": facts(source())}, mine, source())


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"version": "0.0.1"}, r"node 10.0.0.2 has edgequant 0\.0\.1, whose code is another"),
        ({"version": "", "why": "No module named 'quantize'"}, "has no edgequant .No module named"),
        (
            {"facts": {"wrong": "tokenizer.json is missing."}},
            "model .tokenizer.json is missing",
        ),
        ({"facts": {"sizes": {}}}, "has another model.safetensors of"),
        ({"facts": {"fingerprint": "other"}}, "has other files of"),
        ({"facts": {"torch": "2.0"}}, "adds numbers in another order .torch 2.0 instead of"),
        ({"facts": {"processor": "a Z80"}}, "adds numbers in another order .processor a Z80"),
    ],
)
def test_a_node_that_is_otherwise_is_named_with_what_it_lacks(
    found: dict[str, Any], told: str
) -> None:
    mine = facts(source())
    if "facts" in found:
        found = {"facts": mine | found["facts"]}
    with pytest.raises(EdgequantError, match=told):
        refuse_other("10.0.0.2", found, mine, source())


def test_a_folder_that_a_node_lacks_is_named(tmp_path: Path) -> None:
    assert facts(source(tmp_path / "none"))["wrong"] == f"{tmp_path / 'none'} is not there"


def test_the_cluster_decides_no_byte() -> None:
    plan = small_plan(BUNDLED, "gguf:Q4_0")
    spread = replace(plan, ray="10.0.0.1:6379")
    assert key_of(plan, "model", "code") == key_of(spread, "model", "code")
    assert plan.recipe() == spread.recipe()


@pytest.mark.parametrize("compensates", [False, True])
def test_sums_of_a_batch_are_as_large_as_stated(compensates: bool) -> None:
    spec = open_checkpoint(BUNDLED).arch.layer(0)
    observer = (Compared if compensates else Hessians)(spec, torch.device("cpu"))
    assert nbytes(observer.batch_sums()) == batch_bytes(spec, compensates)


def test_windows_that_are_held_back_are_counted_and_leave_the_store() -> None:
    checkpoint = open_checkpoint(BUNDLED)
    layer = OriginalLayers(checkpoint, torch.device("cpu")).layer(0)
    states = np.random.default_rng(0).standard_normal((2, 8, checkpoint.arch.hidden), np.float32)
    there, here = (Compared(layer.spec, torch.device("cpu")) for _ in range(2))
    compare(TorchOps(), layer, Batch((states, 2 * states), Positions(0, 8), held=(1,)), there)
    sums = there.batch_sums()
    assert nbytes(sums) == batch_bytes(layer.spec, True, held=8)
    here.add_sums(sums)
    kept = [part for difference in here.differences for pair in difference.held for part in pair]
    assert kept and nbytes(kept) == nbytes(sums.held)
    there_too = {part.data_ptr() for held in sums.held for pair in held for part in pair}
    assert there_too.isdisjoint(part.data_ptr() for part in kept)


def test_bytes_are_counted_wherever_they_are() -> None:
    array = np.zeros(10, np.float32)
    assert nbytes(({"a": [array]}, torch.zeros(3), "text", None)) == 52


def test_the_store_has_room_for_two_layers() -> None:
    arch = open_checkpoint(BUNDLED).arch
    assert store_room(arch, 100, True) == 2 * worth(arch.layer(0), 100, True)
    assert worth(arch.layer(0), 100, False) < worth(arch.layer(0), 100, True)
