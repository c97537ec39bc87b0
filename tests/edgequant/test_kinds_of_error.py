"""Each kind of error, as a program that uses `edgequant` meets it."""

import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgequant
from tests.edgequant.quick import QUICK, TEXT

BUNDLED = Path(__file__).resolve().parent.parent.parent / "models" / "tiny-qwen2.5"
Usage = namedtuple("Usage", "total used free")


def checkpoint(folder: Path, **changes: Any) -> Path:
    """A copy of the bundled checkpoint whose config.json is changed."""
    shutil.copytree(BUNDLED, folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file that nobody calibrated or judged; nobody may change it."""
    output = tmp_path_factory.mktemp("dist")
    made = edgequant.quantize(to="gguf:Q4_0", output=output, method="rtn", check=False)
    return made.artifacts[0].path


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: edgequant.load("no/such.gguf"), "no/such.gguf does not exist; give"),
        (lambda: edgequant.quantize("./none", "gguf:Q4_0"), "./none does not exist; give"),
        (lambda: edgequant.plan(), "nothing to make; name a target with to"),
        (lambda: edgequant.plan(to="gguf:Q9"), "unknown preset 'Q9'"),
        (lambda: edgequant.plan(to="gguf:Q4_0", rows=0), "rows must be at least 1, not 0"),
        (lambda: edgequant.check([]), "nothing to measure; give at least one file"),
        (lambda: edgequant.compare([]), "nothing to measure; give at least one file"),
        (lambda: edgequant.load(BUNDLED, "cuda"), "unknown backend 'cuda'; known:"),
        (lambda: edgequant.load(BUNDLED, threads="2"), "from 1 to 1024, not '2'"),
        (lambda: edgequant.load(BUNDLED, threads=0), "from 1 to 1024, not 0"),
        (lambda: edgequant.load(BUNDLED, threads=10**6), "from 1 to 1024, not 1000000"),
        (lambda: edgequant.load(BUNDLED, threads=True), "from 1 to 1024, not True"),
        (lambda: edgequant.plan(to="gguf"), "there is no preset in to gguf; known for gguf: Q2_K"),
        (
            lambda: edgequant.plan("", to="gguf:Q4_0"),
            "model is '', a name that nothing has; leave it out",
        ),
        (lambda: edgequant.plan(to="gguf:Q4_0", output="a\0b"), "output is 'a.x00b', a name that"),
        (lambda: edgequant.plan(to="gguf:auto"), "add target_size='350MB', target_bpw=4.5 or"),
    ],
)
def test_bad_input_is_an_input_error(call: Any, sentence: str) -> None:
    with pytest.raises(edgequant.InputError, match=sentence) as caught:
        call()
    assert isinstance(caught.value, ValueError | edgequant.EdgequantError)


SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"rows": "8"}, "rows must be a whole number, not '8'"),
    ({"rows": 8.5}, "rows must be a whole number, not 8.5"),
    ({"rows": None}, "rows must be a whole number, not None"),
    ({"rows": True}, "rows must be a whole number, not True"),
    ({"max_kl": "0.05"}, "max_kl must be a number, not '0.05'"),
    ({"max_ram": "8 apples"}, "max_ram '8 apples' is not a size"),
    ({"eval_rows": "all"}, "eval_rows must be a whole number, not 'all'"),
    ({"seed": -1}, "seed must be at least 0"),
    ({"seed": "x"}, "seed must be a whole number, not 'x'"),
    ({"effort": ["low"]}, "effort must be a string, not"),
    ({"check": "no"}, "check must be true or false, not 'no'"),
    ({"calibration": None}, "calibration must be a string, not None"),
    ({"baseline": 5}, "baseline must be a path, not 5"),
    ({"rules": None}, "rules must be a list of texts, not None"),
    ({"rules": [3]}, "rules must hold texts like attn_v=Q6_K, not 3"),
    ({"rewrites": 5}, "rewrites must be a list of texts, not 5"),
    ({"to": 5}, "to must be a list of texts, not 5"),
    ({"to": [None]}, "to must hold texts like gguf:Q4_K_M, not None"),
]


@pytest.mark.parametrize(("settings", "sentence"), SETTINGS)
def test_settings_of_another_type_are_an_input_error(
    settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(edgequant.InputError, match=sentence):
        edgequant.plan(**{"to": "gguf:Q4_0"} | settings)


def test_settings_may_be_numpys_numbers_single_texts_and_records() -> None:
    from quantize.plan import Rule, Target
    from quantize.run.forecast import Forecast

    def planned(**settings: Any) -> Forecast:
        return edgequant.plan(method="rtn", **settings)

    plain = planned(to="gguf:Q4_0", rules=["attn_v=Q6_K"], max_kl=0.5, rows=8)
    for settings in (
        {"to": [Target("gguf", "Q4_0")], "rules": [Rule("attn_v", "Q6_K")]},
        {"to": (each for each in ["gguf:Q4_0"]), "rules": "attn_v=Q6_K"},
        {"to": "gguf:Q4_0", "rules": ("attn_v=Q6_K",), "max_kl": np.float32(0.5)},
        {"to": "gguf:Q4_0", "rules": "attn_v=Q6_K", "rows": np.int64(8)},
    ):
        assert planned(**settings).targets[0].bytes == plain.targets[0].bytes


def test_bad_calibration_text_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(edgequant.InputError, match="There is no calibration text none.txt"):
        edgequant.quantize(to="gguf:Q4_0", output=tmp_path, **QUICK | {"calibration": "none.txt"})


def test_an_output_that_is_there_already_is_an_input_error(file: Path) -> None:
    with pytest.raises(
        edgequant.InputError, match="exists; use overwrite, or another folder with output"
    ):
        edgequant.quantize(to="gguf:Q4_0", output=file.parent, method="rtn", check=False)


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        ([], r"shape \(0,\) and the type float64; give whole numbers"),
        ([[[1]]], r"shape \(1, 1, 1\) and the type int64; give whole numbers"),
        ([1.5], r"shape \(1,\) and the type float64; give whole numbers"),
        ([0, 4096], "ids must be from 0 to 4095, not 0 to 4096; use the model's own tokenizer"),
        ([[1, 2], [3]], "the rows of ids differ in length"),
        ([-1, 3], "ids must be from 0 to 4095, not -1 to 3"),
        (np.zeros(2049, int), "2049 tokens exceed the model's context of 2048; give fewer"),
    ],
)
def test_ids_that_are_no_tokens_are_an_input_error(file: Path, ids: Any, sentence: str) -> None:
    with pytest.raises(edgequant.InputError, match=sentence):
        edgequant.load(file, "numpy").logits(ids)


@pytest.mark.parametrize(
    ("prompt", "options", "sentence"),
    [
        ("", {}, "the prompt has no tokens"),
        ("Hi", {"count": 2048}, "exceed the model's context of 2048"),
        ("Hi", {"top_p": 0.0}, "top_p must be above 0 and at most 1, not 0.0"),
        ("Hi", {"temperature": float("nan")}, "temperature must be a number from 0 on, not nan"),
        ("Hi", {"temperature": None}, "temperature must be a number from 0 on, not None"),
        ("Hi", {"temperature": 1.0, "seed": -1}, "seed must be a whole number from 0 on, not -1"),
        ("Hi", {"top_k": 1.5}, "top_k must be a whole number from 0 on, not 1.5"),
        ("Hi", {"stop": ""}, "a stop text is empty"),
        ("Hi", {"stop": [5]}, "a stop text is empty or no text"),
        ("Hi", {"count": -1}, "the number of new tokens must be 0 or more, not -1"),
        ("Hi", {"count": 1.5}, "the number of new tokens must be 0 or more, not 1.5"),
        ("\ud800", {}, "the prompt is no text that can be written as UTF-8"),
        (None, {}, "a prompt is text, or messages like"),
        (b"Hi", {}, "a prompt is text, or messages like"),
        (["Hi"], {}, "a prompt is text, or messages like"),
        ({"role": "user", "content": "Hi"}, {}, "a prompt is text, or messages like"),
        ([], {}, "a prompt is text, or messages like"),
        ([{"role": "user"}, {"role": "nobody"}], {}, "the chat template refused the messages"),
    ],
)
def test_prompts_that_cannot_be_used_are_an_input_error(
    file: Path, prompt: Any, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(edgequant.InputError, match=sentence):
        edgequant.load(file, "numpy").generate(prompt, **options)


def test_an_unknown_architecture_is_unsupported(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model", model_type="mamba")
    with pytest.raises(edgequant.UnsupportedError, match="unknown architecture 'mamba'"):
        edgequant.quantize(folder, to="gguf:Q4_0", output=tmp_path / "dist")


def test_a_device_that_is_not_there_is_unsupported(tmp_path: Path) -> None:
    with pytest.raises(edgequant.UnsupportedError, match="device 'nowhere' cannot be used"):
        edgequant.quantize(to="gguf:Q4_0", output=tmp_path, device="nowhere")


def test_a_truncated_file_is_corrupt(file: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(file.read_bytes()[:-100_000])
    for use in (edgequant.load, edgequant.check):
        with pytest.raises(edgequant.CorruptFileError, match="is cut short or damaged"):
            use(cut)


def test_a_checkpoint_without_a_tensor_of_its_config_is_corrupt(tmp_path: Path) -> None:
    config = json.loads((BUNDLED / "config.json").read_text(encoding="utf-8"))
    layers = config["num_hidden_layers"] + 1
    folder = checkpoint(tmp_path / "model", num_hidden_layers=layers)
    with pytest.raises(edgequant.CorruptFileError, match="has no tensor .*which config.json impl"):
        edgequant.plan(folder, to="gguf:Q4_0")


def test_a_full_disk_is_a_space_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 1000, 1000))
    told = r"has 1\.0 kB free and the run needs about [\d.]+ MB"
    with pytest.raises(edgequant.SpaceError, match=told):
        edgequant.quantize(to="gguf:Q4_0", output=tmp_path, method="rtn", check=False)
    assert not list(tmp_path.iterdir())


def test_a_model_that_memory_cannot_hold_is_a_space_error(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = tmp_path / "meminfo"
    full.write_text("MemAvailable: 1 kB\n", encoding="ascii")
    monkeypatch.setattr("runtime.memory.available.__defaults__", (full,))
    with pytest.raises(edgequant.SpaceError, match="do not fit in the 0.00 GiB of memory"):
        edgequant.load(file).generate("The", count=4)


@pytest.mark.parametrize(
    "call",
    [
        lambda: edgequant.quantize(to="gguf:Q4_0", calib_rows=4),
        lambda: edgequant.plan(to="gguf:Q4_0", targets=()),
        lambda: edgequant.check("a.gguf", rows=4),
        lambda: edgequant.compare(["a.gguf"], max_kl=0.1),
    ],
)
def test_a_setting_that_does_not_exist_is_a_type_error(call: Any) -> None:
    with pytest.raises(TypeError, match=r"^there is no setting '\w+'; known: .*eval_rows"):
        call()


def test_a_way_of_sampling_that_does_not_exist_is_a_type_error(file: Path) -> None:
    with pytest.raises(TypeError, match="no setting 'top_n'; known: seed, stop, temperature"):
        edgequant.load(file, "numpy").generate("The", top_n=3)


def test_an_option_that_the_backend_does_not_have_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="the numpy backend has no option 'threads'; it has none"):
        edgequant.load(BUNDLED, "numpy", threads=2)
    with pytest.raises(TypeError, match="the native backend has no option 'n'; it has threads, kv"):
        edgequant.load(BUNDLED, n=2)


@pytest.mark.parametrize("device", ["nowhere", "meta", 3, None])
def test_a_model_is_not_loaded_on_a_device_that_is_not_there(device: Any) -> None:
    if device == 3 and torch.cuda.device_count() > 3:
        pytest.skip("there is such a device")
    with pytest.raises(edgequant.UnsupportedError, match=r"cannot be used .*use device cpu"):
        edgequant.load(BUNDLED, "torch", device=device)


@pytest.mark.slow
def test_an_unfit_artifact_is_told_by_a_comparison_and_raises_in_a_check(
    file: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    data = bytearray(file.read_bytes())
    data[-64:] = np.full(16, np.inf, np.float32).tobytes()  # the last norm, which is float32
    broken.write_bytes(data)
    report = edgequant.compare([broken, file], **TEXT)
    assert any(line.startswith("broken.gguf: ") for line in report.failures)
    assert not any(line.startswith(f"{file.name}: ") for line in report.failures)
    with pytest.raises(edgequant.GateError, match="broken.gguf"):
        edgequant.check(broken, **TEXT)
