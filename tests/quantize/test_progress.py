"""Progress: bars on a terminal, a line for each finished stage in a pipe."""

import io

from rich.console import Console

from quantize.cli.bar import Bar


def test_a_pipe_gets_a_line_when_a_stage_ends() -> None:
    out = io.StringIO()
    with Bar(Console(file=out)) as bar:
        bar.update("layers", 1, 2, "loss 1e-3")
        bar.update("layers", 2, 2, "loss 2e-3")
        bar.say("a note about attn_[qk] " + "x" * 100)
    lines = out.getvalue().splitlines()
    assert lines == ["layers: 2/2 loss 2e-3", "a note about attn_[qk] " + "x" * 100]


def test_a_terminal_gets_a_bar_for_each_stage() -> None:
    out = io.StringIO()
    with Bar(Console(file=out, force_terminal=True, width=120)) as bar:
        bar.update("layers [shared]", 1, 2, "loss [1e-3]")
        bar.update("writing", 0, 1, "file")
        bar.say("a sentence")
    text = out.getvalue()
    for shown in ("layers [shared]", "1/2", "loss [1e-3]", "writing", "0/1", "a sentence"):
        assert shown in text
    assert "layers: " not in text
