"""Damaged files of every kind meet one sentence; tests/trust/mutate.py tries more of them."""

import json
import os
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgequant
from export.gguf_vocab import vocabulary
from quantize.calibration import imatrix
from quantize.checkpoint import open_checkpoint
from quantize.cli.screen import Screen
from quantize.loading import open_any
from quantize.plan import Plan
from quantize.report.report import read_report
from runtime import safetensors_file
from runtime.containers import recognise
from runtime.errors import CorruptFileError, EdgequantError, InputError, one_line
from runtime.gguf_header import read_header
from runtime.gguf_special import NORMAL
from runtime.gguf_vocab import merges_of
from runtime.json_files import read_json
from runtime.onnx_file import open_onnx
from runtime.sources import INDEX
from runtime.vision.image import read_image
from tests.quantize.inputs import edit
from tests.trust import damage, readers
from tests.trust.readers import SUBJECTS
from tests.trust.trial import Trial, limited

TRIES = 5


def put_pair(path: Path, key: str, kind: int, value: Any) -> None:
    """Give a key of a GGUF file another value."""
    pairs, table, data = damage.gguf_parts(path)
    changed = [(key, kind, value) if pair[0] == key else pair for pair in pairs]
    path.write_bytes(damage.gguf_file(changed, table, data))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SUBJECTS if name != "baseline"])
def test_a_damaged_file_is_opened_or_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    trial = Trial(SUBJECTS[name], tmp_path)
    for seed in range(TRIES):
        assert not (found := trial.once(seed)).place, found


def test_layers_are_held_against_the_files_before_they_are_listed(tmp_path: Path) -> None:
    model = readers.checkpoint(tmp_path)
    edit(model, num_hidden_layers=10**9)
    with pytest.raises(CorruptFileError, match=r"num_hidden_layers is not what it must be"):
        open_checkpoint(model)
    edit(model, num_hidden_layers=9999)
    with pytest.raises(CorruptFileError, match="num_hidden_layers 9999, but .* tensors"):
        open_checkpoint(model)


def test_experts_are_held_against_the_files_before_they_are_listed(tmp_path: Path) -> None:
    model = readers.mixture(tmp_path)
    edit(model, num_experts=10**9)
    with pytest.raises(CorruptFileError, match="num_experts is not what it must be"):
        open_checkpoint(model)
    edit(model, num_experts=9999)
    with pytest.raises(CorruptFileError, match=r"has shape .* config.json implies \(9999, "):
        open_checkpoint(model)


def test_experts_of_an_onnx_folder_are_held_against_its_arrays(tmp_path: Path) -> None:
    folder = readers.onnx(tmp_path)
    mixture = json.loads((readers.mixture(tmp_path) / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(mixture | {"num_experts": 9999}))
    with pytest.raises(CorruptFileError, match="9999 experts, but model.onnx holds"):
        open_onnx(folder)


def test_the_id_of_a_token_is_looked_at_before_all_up_to_it_are(tmp_path: Path) -> None:
    model = readers.checkpoint(tmp_path)
    settings = json.loads((model / "tokenizer.json").read_text())
    settings["model"]["vocab"]["Ě"] = 2**31
    (model / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(CorruptFileError, match="gives the token 'Ě' the id 2147483648"):
        vocabulary(model, 4096)


@pytest.mark.parametrize(
    ("key", "kind", "value", "needed"),
    [
        ("imatrix.chunk_count", 9, (4, [1, 2]), "a whole number"),
        ("imatrix.chunk_size", 8, "x", "a whole number"),
        ("imatrix.datasets", 6, 0.5, "a list of texts"),
        ("general.type", 9, (5, [1, 2]), "a text"),
    ],
)
def test_metadata_of_an_imatrix_have_their_kinds(
    key: str, kind: int, value: Any, needed: str, tmp_path: Path
) -> None:
    path = readers.imatrix_gguf(tmp_path)
    put_pair(path, key, kind, value)
    with pytest.raises(CorruptFileError, match=f"{key} in .* but {needed} is needed"):
        imatrix.read(path)


@pytest.mark.parametrize("name", ["../other.safetensors", "/dev/null", "a\\..\\b"])
def test_an_index_names_no_file_outside_of_its_folder(name: str, tmp_path: Path) -> None:
    model = readers.checkpoint(tmp_path)
    index = json.loads((model / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = name
    (model / INDEX).write_text(json.dumps(index))
    with pytest.raises(CorruptFileError, match="index.json names .* outside of the folder"):
        open_checkpoint(model)


def test_genai_config_names_no_file_outside_of_its_folder(tmp_path: Path) -> None:
    folder = readers.onnx(tmp_path)
    settings = json.loads((folder / "genai_config.json").read_text())
    settings["model"]["decoder"]["filename"] = "../model.onnx"
    (folder / "genai_config.json").write_text(json.dumps(settings))
    with pytest.raises(CorruptFileError, match="genai_config.json names .* outside of the folder"):
        open_any(folder)


@pytest.mark.parametrize("length", [2**16 - 1, 2**16])
def test_a_name_in_a_gguf_has_a_greatest_length(length: int, tmp_path: Path) -> None:
    path = readers.gguf(tmp_path)
    pairs, table, data = damage.gguf_parts(path)
    path.write_bytes(damage.gguf_file([*pairs, ("n" * length, 7, True)], table, data))
    if length < 2**16:
        read_header(path)
        return
    with pytest.raises(CorruptFileError, match="a name at byte .* has 65,536 bytes"):
        read_header(path)


@pytest.mark.parametrize("context", [2**31, 4 * 10**9, True])
def test_sizes_of_a_gguf_have_a_greatest_value(context: int, tmp_path: Path) -> None:
    path = readers.gguf(tmp_path)
    pairs, table, data = damage.gguf_parts(path)
    kind = 7 if context is True else 10
    changed = [
        (k, kind, context) if k == "llama.context_length" else (k, t, v) for k, t, v in pairs
    ]
    path.write_bytes(damage.gguf_file(changed, table, data))
    with pytest.raises(CorruptFileError, match=r"above 0 and below 2\*\*31 is needed"):
        open_any(path)


def test_a_yarn_rope_has_a_base_above_one(tmp_path: Path) -> None:
    path = readers.gguf(tmp_path)
    put_pair(path, "llama.rope.freq_base", 6, 1.0)
    with pytest.raises(CorruptFileError, match="base of the rope is 1, and yarn needs one above"):
        open_any(path)


def test_a_long_token_is_cut_only_where_its_parts_may_be_tokens() -> None:
    tokens = ["a", "b", "ab", "aba", "y" * 2_000_000]
    found = merges_of(tokens, [NORMAL] * len(tokens), np.arange(0, -len(tokens), -1))
    assert found == [("a", "b"), ("ab", "a")]


PIPES: dict[str, Callable[[Path], object]] = {
    "a plan": lambda path: Plan.from_flags(path, {}),
    "an importance matrix": imatrix.read,
    "a report": read_report,
    "a model": recognise,
    "a source": open_checkpoint,
    "weights": safetensors_file.read,
    "a GGUF": read_header,
    "JSON": read_json,
    "an image": read_image,
    "text": lambda path: edgequant.plan(to="gguf:auto", target_bpw=5, calibration=str(path)),
}
"""What reads one file."""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("what", PIPES)
def test_a_named_pipe_is_refused_and_not_waited_for(what: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with limited(60), pytest.raises(EdgequantError):
        PIPES[what](tmp_path / "pipe")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize(
    "name", ["tokenizer.json", "chat_template.jinja", "additional_chat_templates/tool_use.jinja"]
)
def test_a_named_pipe_in_a_checkpoint_is_refused(name: str, tmp_path: Path) -> None:
    model = readers.checkpoint(tmp_path)
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).unlink(missing_ok=True)
    os.mkfifo(model / name)
    with limited(60), pytest.raises(InputError, match="is a pipe or a device"):
        open_checkpoint(model)


def test_what_steers_a_terminal_is_shown_by_name() -> None:
    assert one_line("a\x1b[2J\u202eb\n") == "a\\x1b[2J\\u202eb\\n"
    assert one_line("日 é \u200d") == "日 é \u200d"
    assert "\x1b" not in str(EdgequantError("\x1b[31m"))


def test_a_table_on_the_screen_cannot_steer_it() -> None:
    out = StringIO()
    screen = Screen(file=out, force_terminal=True, highlight=False, width=60)
    screen.print("one\ntwo \x1b[2J\x9b1m\u202e")
    assert out.getvalue() == "one\ntwo \\x1b[2J\\x9b1m\\u202e\n"
