"""Put the tables of bench/results into the pages that show them.

    python bench/fill.py

A page has `<!-- table NAME -->` where the table of results/NAME.json stands: the command that
made it, and its rows. What is below that line, up to the end of the table, is replaced. A test
fails when a page and its results differ.
"""

import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import common

PAGES = [
    common.ROOT / name
    for name in ("README.md", "docs/accuracy.md", "docs/performance.md", "docs/scale.md")
]
TABLE = re.compile(r"^<!-- table (\w+) -->\n(?:\n`[^`]+`\n\n(?:\|.*\n)+)?", re.MULTILINE)
"""The mark, and what a filled page has below it."""


def filled(page: str) -> str:
    """The text of a page with every table as bench/results has it."""
    return TABLE.sub(lambda found: f"<!-- table {found[1]} -->\n{table(found[1])}", page)


def table(name: str) -> str:
    """The command and the rows of results/NAME.json; nothing before it was ever measured."""
    path = common.RESULTS / f"{name}.json"
    if not path.exists():
        return ""
    result = json.loads(path.read_text(encoding="utf-8"))
    return f"\n`{result['command']}`\n\n{common.table(result['rows'])}\n"


def main() -> None:
    """Fill every page."""
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
