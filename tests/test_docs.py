"""The documents say what the code does."""

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def test_the_command_line_page_is_up_to_date() -> None:
    made = runpy.run_path(str(DOCS / "make_cli.py"))["text"]()
    assert (DOCS / "cli.md").read_text(encoding="utf-8") == made, "run: python docs/make_cli.py"
