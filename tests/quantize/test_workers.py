"""The pieces of a walk: wherever they are computed, and by however many, the bytes are the same."""

import copy
import io
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quantize.calibration.stream import OriginalLayers
from quantize.calibration.workers import HERE, Batch, RoundedLayer, Step, Workers
from quantize.checkpoint import open_checkpoint
from quantize.run import pipeline
from quantize.run.job import Job
from quantize.run.sequential import quantize_model
from quantize.scale import tensors
from runtime.backends.torch import TorchOps
from runtime.forward import NOBODY, Layer
from runtime.quant_types import QUANT_TYPES
from tests.quantize.runs import small_plan


def sent(value: Any) -> Any:
    """A value as another process has it, in memory that may only be read."""
    buffers: list[pickle.PickleBuffer] = []
    file = io.BytesIO()
    pickler = pickle.Pickler(file, protocol=5, buffer_callback=buffers.append)
    pickler.dispatch_table = {torch.Tensor: lambda x: (tensors.received, (tensors.sent(x),))}
    pickler.dump(value)
    arrived = [bytes(buffer.raw()) for buffer in buffers]
    return pickle.loads(file.getvalue(), buffers=arrived)


class Elsewhere:
    """Computes pieces from what would be sent to another process, `ahead` of them at a time, from
    the last to the first."""

    reads_packed = True

    def __init__(self, model: Path, ahead: int) -> None:
        self.source = OriginalLayers(open_checkpoint(model), torch.device("cpu"))
        self.ahead = ahead
        self.pieces = 0

    def through(
        self, step: Step, ops: TorchOps, layer: Layer, batches: Iterable[Batch], observer: Any
    ) -> Iterator[np.ndarray | None]:
        own = decoded(layer) if isinstance(layer, RoundedLayer) else self.source.layer(layer.index)

        def run(batch: Batch) -> tuple[Any, Any]:
            seen = NOBODY if observer is NOBODY else type(observer)(own.spec, ops.device)
            states = step(TorchOps(), own, batch, seen)
            return states, None if observer is NOBODY else seen.batch_sums()

        for states, sums in self.each(run, ((batch,) for batch in batches)):
            if sums is not None:
                observer.add_sums(sums)
            yield states

    def map(self, function: Any, shared: Any, pieces: Iterable[tuple]) -> Iterator[Any]:
        return self.each(lambda *piece: function(sent(shared), *piece), pieces)

    map_kept = map

    def each(self, function: Any, pieces: Iterable[tuple]) -> Iterator[Any]:
        waiting = [sent(piece) for piece in pieces]
        self.pieces += len(waiting)
        for start in range(0, len(waiting), self.ahead):
            some = waiting[start : start + self.ahead]
            yield from reversed([sent(function(*piece)) for piece in reversed(some)])


def decoded(layer: RoundedLayer) -> Layer:
    """The layer of its packed tensors alone."""
    weights = {n: torch.from_numpy(np.array(t.decode())) for n, t in layer.packed.items()}
    return Layer(layer.spec, weights, layer.index)


def rounded(workers: Workers | None, output: Path, model: Path, *targets: str, **changes: Any):
    """Every array that a run leaves in its work folder, by file."""
    flags = {"rows": 34, "length": 128} | changes  # three batches
    plan = small_plan(model, *targets, output=str(output), check=False, **flags)
    job = pipeline.assign_all(Job.resolve(plan))
    job = replace(job, workers=workers or HERE)
    with job.store.locked():
        job.store.begin()
        quantize_model(job)
        return {
            f"{path.relative_to(job.store.folder)} {key}": array
            for path in sorted(job.store.folder.rglob("*.npz"))
            for key, array in np.load(path).items()
        }


CASES = {
    "compensated": (("gguf:Q4_K_M",), {"effort": "medium"}),
    "prefix": (("gptq:int4",), {"effort": "low"}),
    "shared": (("gguf:Q4_0", "onnx:int4"), {"effort": "low"}),
    "awq": (("awq:int4",), {"method": "awq-gptq", "effort": "low"}),
    "act-order": (("gptq:int4-act",), {"effort": "low"}),
}


@pytest.mark.parametrize(("case", "ahead"), [("compensated", 1), *((case, 3) for case in CASES)])
def test_pieces_computed_elsewhere_leave_the_same_bytes(
    case: str, ahead: int, random_models: dict[str, Path], tmp_path: Path
) -> None:
    targets, changes = CASES[case]
    model = random_models["qwen2-untied"]
    here = rounded(None, tmp_path / "here", model, *targets, **changes)
    workers = Elsewhere(model, ahead)
    there = rounded(workers, tmp_path / "there", model, *targets, **changes)
    assert workers.pieces and here.keys() == there.keys()
    assert [name for name in here if here[name].tobytes() != there[name].tobytes()] == []


def test_a_type_in_another_process_is_that_processs_own() -> None:
    for qtype in QUANT_TYPES.values():
        assert sent(qtype) is qtype and copy.copy(qtype) is qtype
