"""Files of another kind than expected: each is one sentence that names the file."""

import json
from pathlib import Path

import numpy as np
import pytest

import edgequant
from export import CONTAINERS
from quantize.checkpoint import Checkpoint, open_checkpoint
from quantize.run.resume import DAMAGED, Work
from runtime.json_files import FILES, read_json
from tests.mutations import TEXTS, mutations, put, told
from tests.small_models import rounded


@pytest.mark.parametrize("what", TEXTS)
@pytest.mark.parametrize("file", FILES)
def test_a_whole_file_of_another_kind_is_named(file: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / file
    put(path, TEXTS[what])
    assert told(lambda: read_json(path), what, path.name)


@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_no_field_of_a_checkpoint_gives_a_traceback(file: str, folder: Path) -> None:
    path = folder / file
    refused = 0
    for what, changed in mutations(json.loads(path.read_text()), 50):
        path.write_text(json.dumps(changed))
        refused += told(lambda: open_checkpoint(folder), what)
    assert refused > 10


@pytest.mark.slow
def test_no_field_of_genai_config_gives_a_traceback(tiny: Checkpoint, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    CONTAINERS["onnx"].write(folder, tiny.arch, rounded(tiny, "INT4_32"), tiny.folder, {})
    path = folder / "genai_config.json"
    model = json.loads(path.read_text())
    refused = 0
    for what, changed in mutations({"model": model["model"]}, 40):
        path.write_text(json.dumps(changed))
        refused += told(lambda: edgequant.load(folder).logits(np.arange(2)), what)
    assert refused > 15


@pytest.mark.parametrize("what", TEXTS)
def test_a_manifest_of_another_kind_is_that_of_another_run(what: str, tmp_path: Path) -> None:
    work = Work(tmp_path / "work", {"model": {"name": "key"}})
    work.folder.mkdir()
    put(work.manifest, TEXTS[what])
    with work.locked():
        assert work.begin() == DAMAGED
        assert work.stages == {}


@pytest.mark.parametrize("what", [name for name in TEXTS if name != "empty"])
def test_a_plan_of_another_kind_is_named(what: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    put(path, TEXTS[what])
    assert told(lambda: edgequant.plan(plan=path), what, path.name)


def test_a_plan_may_have_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_bytes(b'\xef\xbb\xbfto = ["gguf:Q8_0"]\nmethod = "rtn"\n')
    assert edgequant.plan(plan=tmp_path / "plan.toml").targets[0].bytes > 0
