"""One sentence for both ways to write a setting."""

import pytest
import typer.main

from quantize.cli.program import app
from quantize.plan import Plan, spelling


@pytest.mark.parametrize(
    ("shell", "python"),
    [
        ("--calib-length must be at most 256.", "length must be at most 256."),
        ("add --target-size 350MB, --target-bpw 4.5 or --max-kl 0.02.", None),
        ("use --rule 'attn_q=q4_1' (packs 32).", "use rules='attn_q=q4_1' (packs 32)."),
        ("--rule 'x' has no '='; write REGEX=TYPE.", "rules 'x' has no '='; write REGEX=TYPE."),
        ("choose another folder with -o.", "choose another folder with output."),
        (
            "run `quantize list --json`, or leave out --to",
            "run `quantize list --json`, or leave out to",
        ),
        ("a well-known model-o file -- no flag", "a well-known model-o file -- no flag"),
    ],
)
def test_flags_become_settings(shell: str, python: str | None) -> None:
    told = "add target_size='350MB', target_bpw=4.5 or max_kl=0.02."
    assert spelling.in_python(shell) == (told if python is None else python)


def test_a_number_that_is_out_of_range_is_called_by_its_flag() -> None:
    assert spelling.on_command_line("rows must be at least 1") == "--calib-rows must be at least 1"
    assert spelling.on_command_line("max_kl must be 0") == "--max-kl must be 0"
    assert spelling.on_command_line("The file must be whole") == "The file must be whole"


def test_every_flag_of_a_run_is_a_field() -> None:
    known = {"to", "plan", "json", "junit", "no_check"} | set(Plan.__dataclass_fields__)
    command = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
    flags = [name for option in command.params for name in option.opts if name.startswith("--")]
    assert len(flags) > 20
    assert {spelling.in_python(flag) for flag in flags} <= known


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("choose --to awq or --to onnx-f16.", "choose to='awq' or to='onnx-f16'."),
        ("write ONNX (--to onnx:int4), which", "write ONNX (to='onnx:int4'), which"),
        ("there is no preset in --to gguf; known", "there is no preset in to gguf; known"),
    ],
)
def test_a_target_is_a_setting(sentence: str, expected: str) -> None:
    assert spelling.in_python(sentence) == expected
