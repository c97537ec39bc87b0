"""The documents say what the code does."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from export import CONTAINERS
from export.onnx_hashes import HASHES
from quantize.checkpoint import bundled
from quantize.plan import Plan, Target, assign
from runtime.quant_types import QUANT_TYPES, QuantType
from runtime.quant_types.read_only import READ_ONLY
from runtime.tensor import Tensor

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

TRY_METHOD = """
from quantize.methods import METHODS
w = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
block = QUANT_TYPES["INT8_32"]
rounded = METHODS["toward-zero"].round(w, block, None)
assert ((rounded.value - 0.99 * w).abs() <= block.grid(rounded.params)[0] / 2 + 1e-6).all()
"""
TRY_BLOCK = """
block = QUANT_TYPES["SIGN_32"]
w = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
codes, params = block.quantize(w)
packed = block.pack(codes, params)
assert packed.shape == (3, block.row_bytes(64))
assert (np.sign(block.decode(packed)) == np.sign(w)).all()
assert (block.pack(*block.unpack(packed)) == packed).all()
"""
TRY_ARCHITECTURE = """
from runtime.archs import family_of
facts = json.loads((bundled() / "config.json").read_text()) | {"model_type": "xverse"}
arch = family_of(facts).arch(facts)
assert arch.family == "xverse"
assert family_of(facts).gguf_rows(arch, "blk.0.attn_q.weight") is not None
"""
TRY_BACKEND = """
from quantize.checkpoint import open_checkpoint
from runtime.engine import open_engine
model = open_checkpoint(None).model()
ids = np.arange(12).reshape(1, 12)
ours, theirs = open(model).logits(ids), open_engine(model, "numpy").logits(ids)
assert 0 < np.abs(ours - theirs).max() < 1e-3
"""
TRY_CONTAINER = """
import tempfile
import edgequant
from quantize.inspection import describe
from quantize.loading import open_any
with tempfile.TemporaryDirectory() as folder:
    made = edgequant.quantize(to="npz:fp32", output=folder, method="rtn", check=False)
    path = made.artifacts[0].path
    found = describe(path)
    assert (found["container"], found["provenance"]["preset"]) == ("npz", "fp32")
    ids = np.arange(12).reshape(1, 12)
    expected = open_any(bundled(), "numpy").logits(ids)
    assert (open_any(path, "numpy").logits(ids) == expected).all()
    arch, extra = open(path).arch, provenance(path)
    assert size(arch, {}, bundled(), extra) == path.stat().st_size
"""
TRIALS = {
    "Add a method": TRY_METHOD,
    "Add a quantization type": TRY_BLOCK,
    "Add an architecture": TRY_ARCHITECTURE,
    "Add a container": TRY_CONTAINER,
    "Add a backend": TRY_BACKEND,
}
"""Recipe -> what must hold after its snippet was run."""


def read(path: Path) -> str:
    """A document."""
    return path.read_text(encoding="utf-8")


def sections(document: str) -> dict[str, str]:
    """Heading -> the text below it, for the headings of the third level."""
    parts = re.split(r"^### (.+)\n", document, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def documented(heading: str) -> set[str]:
    """Words in code type in the first column of the tables below a heading of formats.md."""
    section = read(DOCS / "formats.md").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \|", section, flags=re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def write_bundled(target: str, path: Path) -> dict[str, Any]:
    """The bundled model in a container with the provenance of a run; returns that provenance."""
    from quantize.run.job import Job
    from quantize.run.writing import provenance

    plan = Plan((Target.parse(target),), method="rtn")
    job = Job.resolve(plan)
    checkpoint = job.checkpoint
    extra = provenance(job, assign(plan.targets[0], checkpoint.arch, ()), "")
    tensors = (Tensor.dense(name, tensor.decode()) for name, tensor in checkpoint.tensors.items())
    container = CONTAINERS[plan.targets[0].container]
    container.write(path, checkpoint.arch, tensors, checkpoint.folder, extra)
    return extra


def test_the_formats_page_names_every_key_of_a_gguf_file(tmp_path: Path) -> None:
    from runtime.gguf_file import read as read_gguf

    extra = write_bundled("gguf:F32", tmp_path / "a.gguf")
    keys = {re.sub(r"^qwen2\.", "ARCH.", key) for key in read_gguf(tmp_path / "a.gguf").metadata}
    made = {f"edgequant.{key}" for key in extra}
    assert made <= keys
    assert keys - made <= documented("GGUF files")
    assert set(extra) == documented("Provenance")


def test_the_formats_page_names_every_file_and_key_of_an_onnx_folder(tmp_path: Path) -> None:
    extra = write_bundled("onnx:fp32", tmp_path / "onnx")
    copied = {path.name for path in bundled().iterdir()}
    ours = {path.name for path in (tmp_path / "onnx").iterdir()} - copied
    assert ours <= documented("ONNX folders")
    model = onnx.load(tmp_path / "onnx" / "model.onnx", load_external_data=False)
    keys = {item.key for item in model.metadata_props}
    assert {key for key in keys if not key.startswith(HASHES)} == set(extra)
    assert keys - set(extra) <= documented("Hashes")


def test_the_formats_page_names_every_key_of_a_report() -> None:
    schema = json.loads(read(ROOT / "quantize" / "report" / "schema.json"))
    named = documented("report.json")
    assert set(schema["properties"]) | set(schema["$defs"]["result"]["properties"]) == named
    metrics = set(schema["$defs"]["metrics"]["properties"]) - {"windows", "tokens"}
    assert not [key for key in metrics if f"`{key}`" not in read(DOCS / "formats.md")]


def test_the_command_line_page_is_up_to_date() -> None:
    made = runpy.run_path(str(DOCS / "make_cli.py"))["text"]()
    assert read(DOCS / "cli.md") == made, "run: python docs/make_cli.py"


def test_the_map_is_up_to_date() -> None:
    made = runpy.run_path(str(DOCS / "make_map.py"))["text"]()
    assert read(DOCS / "map.md") == made, "run: python docs/make_map.py"


def test_the_page_of_traits_is_that_of_the_tests() -> None:
    made = runpy.run_path(str(DOCS / "make_traits.py"))["text"]()
    assert read(DOCS / "traits.md") == made, "run: python docs/make_traits.py"


def test_the_tour_can_be_read_in_an_hour() -> None:
    steps = read(DOCS / "tour.md").partition("## Where to look")[0]
    files = set(re.findall(r"`([\w/]+\.py)`", steps))
    assert len(files) > 10
    assert sum(len(read(ROOT / file).splitlines()) for file in files) <= 2500


@pytest.mark.parametrize("qtype", QUANT_TYPES.values(), ids=lambda qtype: qtype.name)
def test_the_formats_page_has_the_sizes_of_every_block_layout(qtype: QuantType) -> None:
    if qtype.ordered:  # one sentence for all
        assert qtype.bytes == QUANT_TYPES[qtype.name.removesuffix("_ACT")].bytes
        assert "`_ACT`" in read(DOCS / "formats.md")
        return
    held = ", ".join(sorted(c.name for c in CONTAINERS.values() if c.holds(qtype)))
    row = f"| {qtype.name} | {qtype.size} | {qtype.bytes} | {qtype.bits:g} | {held} |"
    assert row in read(DOCS / "formats.md")


def test_the_formats_page_has_the_types_that_are_only_read() -> None:
    rows = {
        f"| {b.name} | {b.size} | {b.bytes} | {b.bits:g} | gguf, read only |"
        for b in READ_ONLY.values()
        if b.ggml_type is not None
    }
    found = re.findall(r"^\|.*\| gguf, read only \|$", read(DOCS / "formats.md"), re.MULTILINE)
    assert set(found) == rows


@pytest.mark.slow
@pytest.mark.parametrize("recipe", TRIALS)
def test_a_recipe_works_as_it_stands(recipe: str) -> None:
    section = sections(read(ROOT / "CONTRIBUTING.md"))[recipe]
    steps = re.findall(r"^(\d)\. ", section, flags=re.MULTILINE)
    assert steps == list("123456")
    (snippet,) = re.findall(r"```python\n(.+?)```", section, flags=re.DOTALL)
    imports = (
        "import json\n"
        "import numpy as np\n"
        "from quantize.checkpoint import bundled\n"
        "from runtime.quant_types import QUANT_TYPES\n"
    )
    program = imports + snippet + TRIALS[recipe]
    # in a process of its own: the registries of this one stay as they are
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted(DOCS.glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_into_the_project_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", read(page)):
        if target.startswith(("http:", "https:")):
            continue
        path, _, anchor = target.partition("#")
        found = page.parent / path if path else page
        assert found.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", read(found), flags=re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}
            assert anchor in anchors, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    packages = "runtime|export|quantize|calib_data|edgequant|tests|docs|bench|models"
    for name in re.findall(rf"`((?:{packages})/[\w./*-]+)`", read(page)):
        if "NAME" not in name:
            assert list(ROOT.glob(name.rstrip("/"))), name
