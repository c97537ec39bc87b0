"""Runs on a Ray cluster of two local nodes leave the bytes of a single process, whoever dies."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import quantize
from quantize.plan import Plan
from quantize.run import pipeline
from quantize.run.job import Job
from quantize.scale.connect import spread
from runtime.errors import EdgequantError

ray = pytest.importorskip("ray")

from ray.cluster_utils import Cluster  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

ROOT = Path(quantize.__file__).parent.parent
NODE = {"num_cpus": 1, "object_store_memory": 200 * 2**20}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes with a processor each, which find the code where this process has it."""
    path = os.environ.get("PYTHONPATH", "")
    # beside busy programs workers that are nicer still would starve
    settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    os.environ |= {"PYTHONPATH": f"{ROOT}:{path}"} | settings
    found = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    found.add_node(**NODE)
    yield found
    found.shutdown()
    os.environ["PYTHONPATH"] = path


@pytest.fixture
def second(cluster: Cluster) -> Iterator[Any]:
    """The second node; there is another one after the test where it is gone."""
    (node,) = cluster.worker_nodes
    yield node
    if node not in cluster.worker_nodes:
        cluster.add_node(**NODE)


def plan(output: Path, *to: str, **changes: Any) -> Plan:
    """A run of the bundled model with two batches of text."""
    flags = {"to": list(to) or ["gguf:Q4_K_M"], "rows": 8, "check": False, "output": str(output)}
    flags |= {"effort": "low"}
    return Plan.from_flags(None, flags | changes)


def made(run: Plan, progress: Callable[..., None] = lambda *told: None) -> dict[str, bytes]:
    """Every file of a run's output."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pipeline.run(run, progress)
    finally:
        torch.set_num_threads(threads)
    files = (path for path in sorted(run.output.rglob("*")) if path.is_file())
    return {str(path.relative_to(run.output)): path.read_bytes() for path in files}


def same(one: dict[str, bytes], other: dict[str, bytes]) -> bool:
    """Whether two outputs are equal to the last byte."""
    return bool(one) and one == other


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a single process makes."""
    return made(plan(tmp_path_factory.mktemp("single") / "out"))


@pytest.mark.parametrize(
    ("targets", "changes"),
    [
        (("gguf:Q4_K_M",), {"effort": "medium"}),
        (("gguf:Q2_K", "onnx:int4"), {}),
        (("awq:int4",), {"method": "awq-gptq"}),
    ],
)
def test_two_nodes_leave_the_bytes_of_one_process(
    targets: tuple[str, ...], changes: dict[str, Any], cluster: Cluster, tmp_path: Path
) -> None:
    here = made(plan(tmp_path / "here", *targets, **changes))
    there = made(plan(tmp_path / "there", *targets, ray=cluster.address, **changes))
    assert same(here, there)


def children(parent: int) -> dict[int, str]:
    """Process id -> command line of the children of a process."""
    lines = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(parent)], capture_output=True, text=True
    ).stdout.splitlines()
    return {int(line.split()[0]): line.split(None, 1)[1] for line in lines}


def raylet(node: Any) -> int:
    """Process id of what starts a node's workers."""
    return int(node.all_processes["raylet"][0].process.pid)


@contextmanager
def at_work(node: Any, act: Callable[[int], None]) -> Iterator[list[int]]:
    """Act once, on the worker of a node that computes a piece after some others."""
    acted: list[int] = []
    done = threading.Event()

    def wait() -> None:
        seen = 0
        while not done.is_set() and not acted:
            busy = [pid for pid, line in children(raylet(node)).items() if "ray::run_" in line]
            seen += bool(busy)
            if busy and seen > 20:
                act(busy[0])
                acted.append(busy[0])
            time.sleep(0.02)

    thread = threading.Thread(target=wait)
    thread.start()
    yield acted
    done.set()
    thread.join()


def test_a_worker_that_is_killed_changes_no_byte(
    cluster: Cluster, second: Any, single: dict[str, bytes], tmp_path: Path
) -> None:
    with at_work(second, lambda pid: os.kill(pid, signal.SIGKILL)) as killed:
        there = made(plan(tmp_path / "there", ray=cluster.address))
    assert killed and same(single, there)


def test_a_node_that_is_lost_changes_no_byte(
    cluster: Cluster, second: Any, single: dict[str, bytes], tmp_path: Path
) -> None:
    with at_work(second, lambda _: cluster.remove_node(second, allow_graceful=False)) as lost:
        there = made(plan(tmp_path / "there", ray=cluster.address))
    assert lost and same(single, there)
    assert len(cluster.worker_nodes) == 0


def test_a_run_goes_on_without_the_cluster_that_began_it(
    cluster: Cluster, single: dict[str, bytes], tmp_path: Path
) -> None:
    def stop(stage: str, done: int, of: int, note: str) -> None:
        if stage.startswith("layers") and done == 3:
            raise KeyboardInterrupt

    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        made(plan(output, ray=cluster.address), stop)
    assert same(single, made(plan(output)))


@pytest.mark.parametrize("effort", ["low", "medium"])
def test_the_store_holds_less_than_two_layers_and_nothing_at_the_end(
    effort: str, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quantize.run import sequential

    run = plan(tmp_path / "out", ray=cluster.address, effort=effort)
    job = Job.resolve(run)
    counted: list[Any] = []
    with spread(run, job) as spread_job, job.store.locked():
        job.store.begin()
        workers = spread_job.workers
        finish = sequential.Pass.finish

        def finished(self: Any, *found: Any) -> None:
            counted.append((workers.live, used()))
            finish(self, *found)

        monkeypatch.setattr(sequential.Pass, "finish", finished)
        sequential.quantize_model(pipeline.assign_all(spread_job))
        assert 0 < workers.peak <= workers.room
        assert workers.live == 0
        assert counted and all(live == 0 for live, _ in counted)
        assert max(in_store for _, in_store in counted) < workers.room
        stop = time.monotonic() + 20  # nodes tell what is free now and then
        while used() > 0 and time.monotonic() < stop:
            time.sleep(0.2)
        assert used() == 0


def used() -> float:
    """Bytes in the object stores of all nodes."""
    have, free = ray.cluster_resources(), ray.available_resources()
    return have["object_store_memory"] - free.get("object_store_memory", 0)


def test_an_address_that_does_not_answer_is_told_in_seconds(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(EdgequantError, match="no Ray cluster takes work at 127.0.0.1:1"):
        pipeline.run(plan(tmp_path / "out", ray="127.0.0.1:1"))
    assert time.monotonic() - start < 20 and not (tmp_path / "out").exists()


def test_a_node_with_other_code_is_named(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # local nodes import what this process does, so it is this one that is taken for another
    from quantize.scale import nodes

    monkeypatch.setattr(nodes, "code_version", lambda: "another")
    told = rf"the Ray node .* has edgequant {quantize.__version__}, whose code is another"
    with pytest.raises(EdgequantError, match=told):
        pipeline.run(plan(tmp_path / "out", ray=cluster.address))
    assert not (tmp_path / "out").exists()
