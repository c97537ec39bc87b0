"""Embedding models: the pooling that lies beside a checkpoint, and attention that is not causal."""

import json
from pathlib import Path

import gguf
import pytest

from export import CONTAINERS
from quantize.checkpoint import open_checkpoint
from runtime.errors import CorruptFileError, UnsupportedError
from runtime.pooling import notes, pooling, pooling_file
from tests.one_file_models import edit, make
from tests.pooled import add_pooling
from tests.small_models import rounded


@pytest.mark.parametrize(
    ("modes", "found"),
    [
        (["mean_tokens"], "mean"),
        (["lasttoken"], "last"),
        (["cls_token"], "cls"),
        (["weightedmean_tokens"], "weightedmean_tokens"),
        (["mean_tokens", "max_tokens"], "max_tokens and mean_tokens"),
        ([], "none"),
    ],
)
def test_the_pooling_is_the_mode_that_is_on(tmp_path: Path, modes: list[str], found: str) -> None:
    assert pooling(tmp_path) is None
    add_pooling(tmp_path, *modes)
    assert pooling(tmp_path) == found
    (told,) = notes(tmp_path)
    says = "says so" if found in ("mean", "last", "cls") else "cannot say so"
    assert f"with {found} pooling: a GGUF file {says}, " in told


def test_a_part_that_is_left_out_is_named(tmp_path: Path) -> None:
    add_pooling(tmp_path, "mean_tokens", more="Dense")
    assert notes(tmp_path)[0].endswith("; 3_Dense is left out")


def test_settings_outside_of_the_folder_are_not_read(tmp_path: Path) -> None:
    inner = tmp_path / "model"
    inner.mkdir()
    add_pooling(inner, "mean_tokens", place="../1_Pooling")
    assert (tmp_path / "1_Pooling" / "config.json").exists()
    assert pooling_file(inner) is None


def test_a_list_of_parts_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text('{"a": 1}')
    with pytest.raises(CorruptFileError, match=r"modules.json: the file is not what it must be"):
        pooling(tmp_path)


@pytest.mark.parametrize(("mode", "number"), [("mean_tokens", 1), ("lasttoken", 3), ("max", None)])
def test_a_gguf_says_the_pooling_that_llamacpp_knows(
    tmp_path: Path, mode: str, number: int | None
) -> None:
    folder = make(tmp_path / "model")
    add_pooling(folder, mode)
    checkpoint, path = open_checkpoint(folder), tmp_path / "x.gguf"
    assert "embedding model" in checkpoint.notes[0]
    tensors = rounded(checkpoint, "F32")
    CONTAINERS["gguf"].write(path, checkpoint.arch, tensors, checkpoint.folder, {})
    field = gguf.GGUFReader(path).get_field("qwen2.pooling_type")
    assert (field and field.contents()) == number


def test_attention_that_is_not_causal_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    edit(folder, "config.json", is_causal=True)
    open_checkpoint(folder)
    edit(folder, "config.json", is_causal=False)
    with pytest.raises(UnsupportedError, match="sets is_causal to false, so that tokens see those"):
        open_checkpoint(folder)
    assert json.loads((folder / "config.json").read_text())["is_causal"] is False
