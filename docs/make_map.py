"""Write docs/map.md from the first sentence of every module; run it after adding or moving one."""

import ast
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATH = Path(__file__).with_name("map.md")

ROOMS = {
    "edgequant": "the public Python interface; thin",
    "calib_data": "texts to windows of token ids",
    "runtime": "what bytes mean, what a model computes",
    "export": "how a container is written",
    "quantize": "algorithms, a run from its start to its end, reports, the command line",
}
"""Packages from the front door inwards, and what each knows."""

HEAD = """\
# The map

Written by `docs/make_map.py` from the first sentence of every module; a test fails when it is out
of date. [tour.md](tour.md) says in which order to read. Imports go one way: `runtime` knows nobody
above it, `export` knows `runtime`, `quantize` knows both, and only `edgequant` knows `quantize`.
"""


def text() -> str:
    """The whole page."""
    parts = [HEAD]
    for room, knows in ROOMS.items():
        parts.append(f"## {room}: {knows}\n")
        for folder, files in folders(ROOT / room).items():
            parts.append(f"**{folder}/**\n" if folder != room else "")
            parts += [
                f"- `{file.name}`: {told}" for file in files if (told := first_sentence(file))
            ]
            parts.append("")
    return "\n".join(parts).replace("\n\n\n", "\n\n").rstrip() + "\n"


def folders(room: Path) -> dict[str, list[Path]]:
    """Folder -> its modules, the room itself first."""
    command = ["git", "ls-files", str(room)]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found: dict[str, list[Path]] = {}
    for line in sorted(listed.split(), key=lambda line: (line.rpartition("/")[0], line)):
        path = ROOT / line
        if path.suffix in (".py", ".cpp", ".h") and path.name not in ("__init__.py", "__main__.py"):
            found.setdefault(str(path.parent.relative_to(ROOT)), []).append(path)
    return found


def first_sentence(path: Path) -> str:
    """Of a module's docstring, or of the comment at the start of a C++ file; "" without one.

    A header speaks for the .cpp beside it that has none.
    """
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        told = ast.get_docstring(ast.parse(source)) or ""
    else:
        lines = source.split("\n\n")[0].splitlines()
        told = "\n".join(line[2:].strip() for line in lines if line.startswith("//"))
    sentence = " ".join(told.split("\n\n")[0].split())
    for end in (". ", ": "):
        sentence = sentence.split(end)[0]
    return f"{sentence.rstrip('.:')}." if sentence else ""


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
