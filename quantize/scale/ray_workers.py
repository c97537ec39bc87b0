"""Pieces of a walk as tasks of a Ray cluster.

This process keeps the hidden states and the sums, and its disk what is finished: a node that is
lost takes nothing with it but the pieces on their way, which Ray computes again elsewhere. Of the
object store no more than `room` bytes are used at a time, over all nodes.
"""

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayError, RayTaskError

from quantize.calibration.compensation import Compared
from quantize.calibration.workers import Batch, RoundedLayer, Step
from quantize.scale import tasks
from quantize.scale.facts import Source
from quantize.scale.sizes import batch_bytes, nbytes
from quantize.scale.tensors import received, sent
from runtime.backends.torch import TorchOps
from runtime.errors import EdgequantError, InputError
from runtime.forward import NOBODY, Layer

RETRIES = 4
"""How often a piece is computed again whose worker or node died."""
POLL = 10.0
"""Seconds after which it is looked whether anybody is left who could compute."""


class Remote:
    """A result that stays where it was computed, as long as this is there."""

    def __init__(self, ref: Any) -> None:
        self.ref = ref


class RayWorkers:
    """Workers on a cluster that this process is connected to; see `calibration/workers.py`."""

    reads_packed = True

    def __init__(self, source: Source, room: int) -> None:
        self.source, self.room = source, room
        self.live = 0
        """Bytes in the object store, or on their way into it."""
        self.peak = 0
        """The most of them so far."""
        self.rounded = 0
        """Rounded layers that were sent."""
        ray.util.register_serializer(torch.Tensor, serializer=sent, deserializer=received)
        options = {"num_cpus": source.threads, "max_retries": RETRIES}
        self.run_batch = ray.remote(**options)(tasks.run_batch)
        self.run_piece = ray.remote(**options)(tasks.run_piece)
        self.run_kept = ray.remote(**options, num_returns=2)(tasks.run_kept)

    def through(
        self, step: Step, ops: TorchOps, layer: Layer, batches: Iterable[Batch], observer: Any
    ) -> Iterator[np.ndarray | None]:
        kind = None if observer is NOBODY else type(observer)
        place, size = self._place(layer)

        def sums_of(batch: Batch) -> int:
            held = len(batch.held) * batch.states[0].shape[1]
            return batch_bytes(layer.spec, isinstance(observer, Compared), held) if kind else 0

        try:
            calls = (
                (self.run_batch, (self.source, place, step, batch, kind), sums_of(batch))
                for batch in batches
            )
            for states, sums in self._each(calls):
                if sums is not None:
                    observer.add_sums(sums)
                yield states
                del states, sums  # they lie in the store
        finally:
            self._count(-size)

    def map(
        self, function: Callable[..., Any], shared: Any, pieces: Iterable[tuple]
    ) -> Iterator[Any]:
        ref, size = self._shared(shared)
        try:
            calls = ((self.run_piece, (self.source, function, ref, piece), 0) for piece in pieces)
            for found in self._each(calls):
                # tensors that are kept would keep their place in the store
                yield [part.clone() for part in found] if isinstance(found, list) else found
                del found
        finally:
            self._count(-size)

    def map_kept(
        self, function: Callable[..., tuple[Any, Any]], shared: Any, pieces: Iterable[tuple]
    ) -> Iterator[tuple[Any, Any]]:
        ref, size = self._shared(shared)
        try:
            calls = (
                (self.run_kept, (self.source, function, ref, piece), nbytes(piece))
                for piece in pieces
            )
            for (told, result_size), kept in self._each(calls):
                self._count(result_size)
                weakref.finalize(kept, self._count, -result_size)
                yield told, kept
                del kept
        finally:
            self._count(-size)

    def _each(self, calls: Iterable[tuple[Any, tuple, int]]) -> Iterator[Any]:
        """Results of remote functions, in order; of two results the second as a Remote.

        A call is a function, its arguments, and the bytes that it gives beyond those that it takes.
        As many are on their way as there are processors for, and room. A result counts until the
        next one is asked for.
        """
        waiting: deque[tuple[Any, int]] = deque()
        places = self._places()
        for function, arguments, more in calls:
            size = 2 * nbytes(arguments) + more
            while waiting and (len(waiting) > places or self.live + size > self.room):
                yield from self._first(waiting)
            self._count(size)
            waiting.append((function.remote(*arguments), size))
            del arguments
        while waiting:
            yield from self._first(waiting)

    def _first(self, waiting: deque[tuple[Any, int]]) -> Iterator[Any]:
        """The result that has waited longest."""
        ref, size = waiting.popleft()
        if isinstance(ref, list):
            told, kept = self._get(ref[0]), Remote(ref.pop())
            self._count(-size)
            yield told, kept
            return
        try:
            yield self._get(ref)
        finally:
            del ref
            self._count(-size)

    def _wait(self, ref: Any) -> None:
        """Until a result is there, or raise InputError when nobody is left who could compute it."""
        while not ray.wait([ref], timeout=POLL, fetch_local=False)[0]:
            if not self._places():
                raise InputError(
                    f"no Ray node is left with {self.source.threads} processors for a piece; bring "
                    "nodes back and run the same command again: it goes on after the last layer."
                )

    def _get(self, ref: Any) -> Any:
        """A result. Raises what the piece raised, and InputError when it was lost too often."""
        try:
            self._wait(ref)
            return ray.get(ref)
        except RayTaskError as error:
            if isinstance(error.cause, EdgequantError):
                raise error.cause from None
            raise
        except RayError as error:
            reason = str(error).strip().splitlines()[0].rstrip(".")
            raise InputError(
                f"a piece was lost {RETRIES + 1} times with the Ray worker that computed it "
                f"({reason}); run the same command again: it goes on after the last layer."
            ) from error

    def _places(self) -> int:
        """How many pieces are computed at a time."""
        alive = (node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
        return sum(int(processors // self.source.threads) for processors in alive)

    def _place(self, layer: Layer) -> tuple[Any, int]:
        """What says a layer to workers, and the bytes that it takes in the store."""
        if not isinstance(layer, RoundedLayer):
            return layer.index, 0
        self.rounded += 1
        packed = tasks.Packed(str(self.rounded), layer.index, dict(layer.packed))
        return self._shared(packed)

    def _shared(self, value: Any) -> tuple[Any, int]:
        """A reference to what pieces share, and the bytes that it takes anew in the store."""
        if isinstance(value, Remote):
            return value.ref, 0
        size = nbytes(value)
        self._count(size)
        return ray.put(value), size

    def _count(self, size: int) -> None:
        """Bytes come into the store, or leave it."""
        self.live += size
        self.peak = max(self.peak, self.live)
