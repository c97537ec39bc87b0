"""Work beside the main thread, which ends before the interpreter does.

Python stops a daemon thread that is still running when the interpreter ends; inside C++ that
aborts the process.
"""

import atexit
from collections.abc import Callable
from threading import Event, Thread
from weakref import WeakSet

_ending = Event()
_threads: "WeakSet[Thread]" = WeakSet()


def start(work: Callable[[], None]) -> Thread:
    """Run `work` in a thread of its own; it calls `stop_if_ending` often, some ms apart."""
    thread = Thread(target=work, daemon=True)  # else the interpreter would wait before it says so
    _threads.add(thread)
    thread.start()
    return thread


def stop_if_ending() -> None:
    """End this thread, silently, when the program is ending."""
    if _ending.is_set():
        raise SystemExit


@atexit.register
def _end() -> None:
    _ending.set()
    for thread in list(_threads):
        thread.join()
