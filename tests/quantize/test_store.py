"""The work folder: names that cannot meet, and files that go when nobody needs them."""

from pathlib import Path

import numpy as np
import pytest

from quantize.plan import Target
from quantize.run.store import WHICH, Store, folder_name

TARGETS = (Target("gguf", "Q4_K_M"), Target("onnx", "int4"))


def test_no_two_steps_share_a_name(tmp_path: Path) -> None:
    store = Store(tmp_path, {"model": {"name": "key"}})
    entries = [store.calibration, store.statistics, store.all_written, store.judging]
    for target in TARGETS:
        entries += [store.tuned(target), store.tuning_state(target)]
        entries += [store.writing(target), store.written(target)]
        for name in ("token_embd.weight", "output.weight", "output_norm.weight"):
            entries += [store.table(target, name), store.tuned_table(target, name)]
        for layer in range(12):
            entries += [store.packed(target, layer), store.tuned_layer(target, layer)]
    names = [entry.name for entry in entries]
    for group in ("shared", *map(folder_name, TARGETS)):
        names += [store.states(group, which).name for which in WHICH]
    assert len(names) == len(set(names))


def test_a_step_is_done_with_its_facts_for_the_next_run(tmp_path: Path) -> None:
    entry = Store(tmp_path, {"model": {"name": "key"}}).tuned(TARGETS[0])
    assert not entry.done
    assert entry.facts == {}
    entry.save({"weight": np.arange(3)})
    entry.finish(accepted=True, notes=["better"])
    again = Store(tmp_path, {"model": {"name": "key"}})
    assert again.tuned(TARGETS[0]).done
    assert again.tuned(TARGETS[0]).facts["accepted"]
    assert not again.tuned(TARGETS[1]).done
    assert again.tuned(TARGETS[0]).load("weight").tolist() == [0, 1, 2]
    assert again.notes == ["better"]
    assert not Store(tmp_path, {"model": {"name": "another key"}}).tuned(TARGETS[0]).done


def test_states_behind_a_layer_outlive_those_that_are_computed(tmp_path: Path) -> None:
    states = Store(tmp_path, {"model": {"name": "key"}}).states("shared", "hidden")
    values = states.allocate((1, 2, 3), max_ram=0)
    values[:] = 7
    states.save(4, values)
    del values
    states.drop()
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["hidden-4.npy"]
    assert float(states.load(4).sum()) == 42
    states.drop(4)
    assert list((tmp_path / "shared").iterdir()) == []


@pytest.mark.parametrize("max_ram", [0, 1])
def test_room_of_a_step_goes_when_the_step_is_over(max_ram: int, tmp_path: Path) -> None:
    store = Store(tmp_path, {"model": {"name": "key"}})
    with store.scratch(max_ram) as allocate:
        array = allocate("states", (2, 3))
        assert array.shape == (2, 3)
        assert len(list(tmp_path.rglob("*.npy"))) == (1 if max_ram == 0 else 0)
    assert not list(tmp_path.rglob("*.npy"))
