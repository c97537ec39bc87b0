"""The bundled texts: the manifest and the folder agree, and nothing in them is dropped."""

import hashlib
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from calib_data import load, manifest, sources
from calib_data.document import document
from calib_data.files import read_file

FOLDER = sources.FOLDER
MANIFEST = sources.read_manifest()
DOMAINS = list(MANIFEST["mix"])


class ByteTokenizer:
    """A token is a byte; a conversation is its contents one after the other."""

    separator = None

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def render(self, messages: list[dict[str, str]], *, tools: object = None) -> str:
        return "\n".join(turn["content"] for turn in messages)


def test_manifest_and_folder_agree() -> None:
    stated = {entry["name"]: entry["sha256"] for entry in MANIFEST["file"]}
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (FOLDER / "texts").iterdir()
    }
    assert stated == found, "run: python -m calib_data.manifest"


def test_every_text_states_domain_language_licence_and_source() -> None:
    for entry in MANIFEST["file"]:
        assert set(entry) == set(manifest.FIELDS)
        assert entry["domain"] in DOMAINS
        assert entry["licence"] == "CC0-1.0"
        assert all(entry.values())


def test_the_mix_sums_to_one_and_every_domain_has_text() -> None:
    assert sum(MANIFEST["mix"].values()) == pytest.approx(1)
    assert {entry["domain"] for entry in MANIFEST["file"]} == set(DOMAINS)


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_domain_gives_both_parts_and_drops_no_document(domain: str) -> None:
    for part in ("calibration", "heldout"):
        windows = load(f"builtin:{domain}", ByteTokenizer(), 0, 64, part=part)
        assert windows.rows > 0
        assert {reason for _, reason in windows.dropped} <= {
            "tokens left over after the last full window"
        }


def test_every_bundled_document_is_in_exactly_one_part() -> None:
    parts: list[set[bytes]] = []
    for part in ("calibration", "heldout"):
        request = sources.Request("builtin", "", 0, 512, 0, part, None)
        pools = sources.gather(request, Counter())
        assert all(pool.documents for pool in pools)
        parts.append({item.digest for pool in pools for item in pool.documents})
    paths = (FOLDER / "texts").iterdir()
    every = {document(content).digest for path in paths for content in read_file(path)}
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == every


def test_no_document_is_in_two_bundled_texts() -> None:
    digests = [
        document(content).digest
        for path in sorted((FOLDER / "texts").iterdir())
        for content in read_file(path)
    ]
    assert len(digests) == len(set(digests))


def test_manifest_command_adds_new_texts_removes_gone_ones_and_keeps_what_is_stated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sources, "FOLDER", tmp_path)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "languages.de.txt").write_text("Guten Tag")
    (tmp_path / "MANIFEST.toml").write_text(
        '[mix]\nlanguages = 1.0\n\n[[file]]\nname = "gone.en.txt"\n'
    )
    manifest.main()
    said = capsys.readouterr().err
    assert "languages.de.txt: new, entered as CC0-1.0, written for edgequant" in said
    assert "gone.en.txt: gone from texts/, entry removed" in said

    written = tmp_path / "MANIFEST.toml"
    written.write_text(written.read_text().replace("CC0-1.0", "CC-BY-4.0"))
    (tmp_path / "texts" / "languages.de.txt").write_text("Guten Abend")
    manifest.main()
    assert capsys.readouterr().err == ""
    [entry] = tomllib.loads(written.read_text())["file"]
    assert entry == {
        "name": "languages.de.txt",
        "domain": "languages",
        "language": "de",
        "licence": "CC-BY-4.0",
        "source": "written for edgequant",
        "sha256": hashlib.sha256(b"Guten Abend").hexdigest(),
    }
