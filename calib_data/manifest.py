"""Rewrite MANIFEST.toml after a text changed: python -m calib_data.manifest"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from calib_data import sources

HEADER = """\
# The bundled calibration texts: their mix, licence, source and sha256.
# After changing anything in texts/ run: python -m calib_data.manifest

# share of the rows of `builtin` that each domain fills
"""
FIELDS = ("name", "domain", "language", "licence", "source", "sha256")
UNSTATED = {"licence": "CC0-1.0", "source": "written for edgequant"}


def entry_of(path: Path, known: dict[str, Any]) -> dict[str, str]:
    """Describe one text, DOMAIN.TOPIC.ending; what `known` already states is kept."""
    domain, topic, *_ = path.name.split(".")
    language = topic if domain == "languages" else "en"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    named = {"name": path.name, "domain": domain, "language": language}
    return {**named, **UNSTATED, **known, "sha256": digest}


def render(mix: dict[str, float], entries: list[dict[str, str]]) -> str:
    """Write the manifest as TOML; JSON's strings are TOML's."""
    lines = [HEADER + "[mix]", *(f"{domain} = {share:.2f}" for domain, share in mix.items())]
    for entry in entries:
        values = (f"{key} = {json.dumps(entry[key], ensure_ascii=False)}" for key in FIELDS)
        lines += ["", "[[file]]", *values]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Bring the manifest in line with texts/ and say what is new or gone."""
    manifest = sources.read_manifest()
    known = {entry["name"]: entry for entry in manifest.get("file", [])}
    paths = sorted(path for path in (sources.FOLDER / "texts").iterdir() if path.is_file())
    entries = [entry_of(path, known.get(path.name, {})) for path in paths]
    for name in sorted({path.name for path in paths} - set(known)):
        stated = ", ".join(UNSTATED.values())
        print(f"{name}: new, entered as {stated}; edit if that is not so", file=sys.stderr)
    for name in sorted(set(known) - {path.name for path in paths}):
        print(f"{name}: gone from texts/, entry removed", file=sys.stderr)
    text = render(manifest["mix"], entries)
    (sources.FOLDER / "MANIFEST.toml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
