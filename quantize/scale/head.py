"""Notice that the head of a Ray cluster, or Ray on this machine, is gone.

Ray ends a process whose head does not answer for a minute, or whose own node is gone, with the exit
code of a failed gate and a stack of its own. So both are looked at here, and the sentence comes
first.
"""

import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

EVERY = 1.0
"""Seconds between two looks."""
MISSED = 3
"""Looks in a row without an answer, after which nobody is there."""
GONE = (
    "error the Ray cluster is gone: {what} does not answer any more; start it again, and then the "
    "same command, which goes on after the last finished layer"
)


@contextmanager
def watched() -> Iterator[None]:
    """While the body runs, end this process with 2 when the cluster that it is connected to goes.

    The work so far lies in the work folder.
    """
    import ray

    context = ray.get_runtime_context()
    here = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    host, _, port = context.gcs_address.rpartition(":")
    places = {
        "its head": (host, int(port)),
        "its node on this machine": (here["NodeManagerAddress"], int(here["NodeManagerPort"])),
    }
    stop = threading.Event()
    thread = threading.Thread(target=_watch, args=(places, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _watch(places: dict[str, tuple[str, int]], stop: threading.Event) -> None:
    missed = dict.fromkeys(places, 0)
    while not stop.wait(EVERY):
        for what, place in places.items():
            missed[what] = 0 if answers(place) else missed[what] + 1
            if missed[what] >= MISSED:
                print(GONE.format(what=what), file=sys.stderr, flush=True)
                os._exit(2)  # nothing in this process can go on: it waits inside of Ray


def answers(place: tuple[str, int]) -> bool:
    """Whether somebody listens there; a machine that is busy has time to answer."""
    try:
        socket.create_connection(place, timeout=10 * EVERY).close()
    except OSError:
        return False
    return True
