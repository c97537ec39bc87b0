"""From `--ray ADDRESS` to workers that compute for a run."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch

from quantize.plan import Plan
from quantize.run.job import Job
from quantize.run.version import code_version
from quantize.scale.facts import Source
from quantize.scale.head import watched
from quantize.scale.sizes import store_room
from runtime.errors import InputError, UnsupportedError

LOCAL, FOUND = "local", "auto"
"""Addresses that are words: Ray is started on this machine; the cluster that runs on it."""
CONNECT = 5.0
"""Seconds in which an address must answer."""
SETTINGS = b"\4"
"""The kind of frame with which both sides of HTTP/2 begin; Ray's head speaks it (gRPC)."""
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0" + SETTINGS + b"\0" + b"\0\0\0\0"
"""What a client of HTTP/2 says first: its preface, and a frame of no settings."""


@contextmanager
def spread(plan: Plan, job: Job) -> Iterator[Job]:
    """The job, computed on the cluster that the plan names while the body runs.

    Writes nothing. Raises EdgequantError for an address that does not answer, a node that is not
    as this machine is, and a run that is not made of pieces.
    """
    if plan.ray is None:
        yield job
        return
    check_spread(plan, job)
    connect(plan.ray)
    # both need the extra
    import ray

    from quantize.scale import nodes, ray_workers

    try:
        local = plan.model and Path(plan.model).exists()
        source = Source(
            model=os.path.abspath(plan.model) if plan.model and local else plan.model,
            adapters=tuple(os.path.abspath(a) if Path(a).exists() else a for a in plan.adapter),
            containers=tuple(dict.fromkeys(target.container for target in plan.targets)),
            code=code_version(),
            fingerprint=job.fingerprint,
            threads=torch.get_num_threads(),
        )
        nodes.check_nodes(source)
        tokens = job.calibration.tokens
        room = store_room(job.checkpoint.arch, tokens, job.effort.compensates)
        with watched():
            yield replace(job, workers=ray_workers.RayWorkers(source, room))
    finally:
        ray.shutdown()


def check_spread(plan: Plan, job: Job) -> None:
    """Raise EdgequantError for an address of no known form, a run that is not made of pieces, or
    where Ray is missing."""
    if plan.ray is None:
        return
    check_form(plan.ray)
    arch, method = job.checkpoint.arch, job.recipe.method
    why = ""
    if not method.calibrated:
        why = f"--method {plan.method}, which reads no text; it takes minutes on one machine"
    elif job.tuning_steps or job.calibration.weigh:
        why = f"--effort {plan.effort}, whose tuning goes through the whole model; use medium"
    elif plan.max_ram is not None:
        why = "a run under --max-ram, which limits one process; leave one of the two out"
    elif plan.device != "cpu":
        why = f"--device {plan.device}; leave it out, or leave out --ray"
    elif any(arch.layer(index).mixture for index in range(arch.layers)):
        why = f"the experts of {job.checkpoint.name}; leave --ray out"
    elif job.calibration.images:
        why = "images; use --calib-images none, or leave --ray out"
    if why:
        raise UnsupportedError(f"--ray does not spread {why}.")
    if find_spec("ray") is None:
        raise UnsupportedError(
            "--ray needs a package that is not installed: pip install 'edgequant[ray]'."
        )


def connect(address: str) -> None:
    """Connect this process. Raises InputError in seconds for an address that does not answer."""
    if address not in (LOCAL, FOUND):
        probe(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told of a run
    import ray

    stops = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR", include_dashboard=None)
    except Exception as error:  # of many kinds: connection, version, a folder that is not there
        raise refused(address, str(error)) from error
    if stops is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stops)  # Ray's own prints a stack and aborts


def probe(address: str) -> None:
    """Raise InputError where nobody answers at HOST:PORT, or somebody who is not Ray."""
    check_form(address)
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT) as there:
            there.sendall(HELLO)
            answer = there.recv(9)
    except (OSError, ValueError) as error:  # a name that is none is a UnicodeError
        raise refused(address, str(error)) from error
    if answer[3:4] != SETTINGS:
        raise refused(address, "what listens there is not Ray")


def check_form(address: str) -> None:
    """Raise InputError for what is neither HOST:PORT nor one of the words."""
    host, _, port = address.rpartition(":")
    number = port.isascii() and port.isdecimal() and 0 < int(port[:9]) < 2**16
    if address not in (LOCAL, FOUND) and (not host or "/" in address or not number):
        raise InputError(
            f"{address!r} is no address of a Ray cluster; give HOST:PORT of its head, {FOUND} for "
            f"the one that runs on this machine, or {LOCAL} to start one here."
        )


def refused(address: str, reason: str) -> InputError:
    """The sentence of an address at which no work can be given away."""
    line = next(iter(reason.strip().splitlines()), "no answer").rstrip(".")
    return InputError(
        f"no Ray cluster takes work at {address} ({line}); start one with `ray start --head` and "
        "join this machine to it, or check the address."
    )
