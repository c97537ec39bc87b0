"""What every container says of itself is true."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from export import CONTAINERS, Container
from quantize.checkpoint import Checkpoint
from runtime.containers import recognise
from runtime.engine import backend_names
from runtime.quant_types import QUANT_TYPES, QuantType
from runtime.tensor import Tensor

every = pytest.mark.parametrize("container", CONTAINERS.values(), ids=lambda c: c.name)


@pytest.fixture(scope="module")
def written(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The bundled model in each container, its linears in the least of the types that it holds."""
    folder = tmp_path_factory.mktemp("containers")
    paths = {name: folder / f"tiny{c.suffix}" for name, c in CONTAINERS.items()}
    for name, path in paths.items():
        held = (qtype for qtype in QUANT_TYPES.values() if CONTAINERS[name].holds(qtype))
        least = min(held, key=lambda qtype: qtype.bits)
        CONTAINERS[name].write(
            path, tiny.arch, in_layers(tiny, least), tiny.folder, {"method": "rtn"}
        )
    return paths


def in_layers(tiny: Checkpoint, qtype: QuantType) -> Iterator[Tensor]:
    """Its tensors, the linears of the layers rounded to a type."""
    for name, tensor in tiny.tensors.items():
        values = tensor.decode()
        if name.startswith("blk.") and tensor.is_matrix:
            yield Tensor(name, tensor.shape, qtype, qtype.pack(*qtype.quantize(values)))
        else:
            yield Tensor.dense(name, values)


@every
def test_an_artifact_is_recognised_by_its_own_container_only(
    container: Container, written: dict[str, Path]
) -> None:
    path = written[container.name]
    others = [c.reader for c in CONTAINERS.values() if c.reader is not container.reader]
    assert recognise(path) is container.reader
    assert not any(reader.recognises(path) for reader in others)
    assert path.is_file() == container.reader.is_file == container.suffix.startswith(".")


@every
def test_an_artifact_opens_with_all_tensors_and_its_provenance(
    container: Container, written: dict[str, Path], tiny: Checkpoint
) -> None:
    path = written[container.name]
    model = container.reader.open(path)
    assert set(model.tensors) == set(tiny.tensors)
    assert model.arch == tiny.arch
    assert "rtn" in container.provenance(path).values()
    assert container.maker(path) == "edgequant"


@every
def test_a_container_can_run_what_it_holds(container: Container) -> None:
    assert container.reader.engine in backend_names()
    assert container.holds(QUANT_TYPES[container.widest])
    assert QUANT_TYPES[container.widest].size == 1
    names = {"literal": '"made.here"', "model": "some-model", "companion": "made.more"}
    usage = container.usage.format(file="made.here", **names)
    assert "made.here" in usage
    assert "{file}" not in usage
