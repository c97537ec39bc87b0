"""The house rule: imports go one way, and the runtime stays light."""

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

ALLOWED = {
    "calib_data": {"calib_data", "runtime"},
    "runtime": {"runtime"},
    "export": {"export", "runtime"},
    "quantize": {"quantize", "export", "runtime", "calib_data", "edgequant"},
    "edgequant": {"edgequant", "quantize", "runtime"},
}
"""Package -> packages of ours that it may import."""

LIGHT = {
    "calib_data": {"numpy", "runtime"},
    "runtime": {"numpy", "array_api_compat", "tokenizers", "jinja2", "msgspec"},
}
"""Package -> all that importing it may need besides the standard library."""

HEAVY = {
    "torch",
    "triton",
    "transformers",
    "onnx",
    "onnxruntime",
    "gguf",
    "safetensors",
    "xllamacpp",
}
"""What a program that only runs models must not have to load."""

LENT = {"runtime/quant_types/codebooks.py": {"gguf"}}
"""Files whose functions may use a package of others: tables of a format, read when needed."""

FILES = [path for package in ALLOWED for path in sorted((ROOT / package).rglob("*.py"))]


def name(path: Path) -> str:
    """Path from the root, as a test's id."""
    return str(path.relative_to(ROOT))


def is_foreign(path: Path) -> bool:
    """Whether a file may use a package of others: torch, its kernels, or a backend of READS_FILES.

    Its text is asked, because importing it may need that package.
    """
    if path.parent == ROOT / "runtime" / "triton":
        return True
    if path.parent != ROOT / "runtime" / "backends":
        return False
    text = path.read_text(encoding="utf-8")
    return path.stem == "torch" or "\nREADS_FILES = True\n" in text


def test_the_foreign_backends_are_told_by_what_they_say() -> None:
    found = {path.stem for path in FILES if is_foreign(path)}
    assert {"torch", "onnxruntime", "llamacpp", "kernels"} <= found
    assert not found & {"numpy", "native"}


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """Top-level names of the modules that some nodes import."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer that is imported from"
            found.add(str(node.module).split(".")[0])
    return found


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the file is imported: everything outside functions."""
    for child in ast.iter_child_nodes(tree):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from at_import(child)


def parse(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def test_imports_inside_functions_are_told_from_those_at_import() -> None:
    tree = ast.parse("import a.b\nif 1:\n    from c.d import e\ndef f():\n    import g\n")
    assert imported(at_import(tree)) == {"a", "c"}
    assert imported(ast.walk(tree)) == {"a", "c", "g"}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_between_our_packages_go_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    ours = imported(ast.walk(parse(path))) & {*ALLOWED, "tests", "bench"}
    assert ours <= ALLOWED[package]


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.relative_to(ROOT).parts[0] in LIGHT], ids=name
)
def test_the_lower_layers_import_only_what_they_declare(path: Path) -> None:
    if is_foreign(path):
        return
    package = path.relative_to(ROOT).parts[0]
    others = imported(at_import(parse(path))) - set(sys.stdlib_module_names)
    assert others <= {package} | LIGHT[package]


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.relative_to(ROOT).parts[0] == "runtime"], ids=name
)
def test_the_runtime_never_uses_torch_or_a_writer_of_files(path: Path) -> None:
    if is_foreign(path):
        return
    lent = LENT.get(name(path), set())
    assert not imported(ast.walk(parse(path))) & {"torch", "transformers", "gguf"} - lent


@pytest.mark.parametrize("path", sorted((ROOT / "export").rglob("*.py")), ids=name)
def test_writers_never_use_torch(path: Path) -> None:
    assert not imported(ast.walk(parse(path))) & {"torch", "transformers"}


def modules(package: str) -> list[str]:
    """Every module of a package that can be imported here without a foreign engine."""
    compiled = importlib.util.find_spec("runtime._native") is not None
    names = []
    for path in sorted((ROOT / package).rglob("*.py")):
        without_kernels = path == ROOT / "runtime" / "backends" / "native.py" and not compiled
        if not is_foreign(path) and not without_kernels:
            parts = path.relative_to(ROOT).with_suffix("").parts
            names.append(".".join(parts).removesuffix(".__init__"))
    return names


def loaded_by(names: list[str]) -> set[str]:
    """Top-level modules that a fresh interpreter loads for some imports."""
    program = (
        "import importlib, sys\n"
        "before = set(sys.modules)\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_importing_the_runtime_loads_no_heavy_package_and_no_upper_layer() -> None:
    loaded = loaded_by(modules("runtime"))
    assert {"runtime", "numpy"} <= loaded
    assert not loaded & (HEAVY | {"calib_data", "export", "quantize"})


def test_importing_calib_data_loads_only_numpy_and_the_tree_of_errors() -> None:
    loaded = loaded_by(modules("calib_data")) - set(sys.stdlib_module_names)
    assert loaded == {"calib_data", "numpy", "runtime"}


@pytest.mark.parametrize("path", sorted((ROOT / "calib_data").rglob("*.py")), ids=name)
def test_calib_data_takes_nothing_of_the_runtime_but_its_errors(path: Path) -> None:
    whole = {
        node.module if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert {name for name in whole if str(name).startswith("runtime")} <= {"runtime.errors"}


@pytest.mark.parametrize("path", sorted((ROOT / "quantize").rglob("*.py")), ids=name)
def test_only_the_root_of_quantize_imports_the_front(path: Path) -> None:
    # its version, and the check that no stranger's file took the place of a package
    if path != ROOT / "quantize" / "__init__.py":
        assert "edgequant" not in imported(ast.walk(parse(path)))


def test_importing_the_front_loads_nothing_but_the_front() -> None:
    assert loaded_by(["edgequant"]) - set(sys.stdlib_module_names) == {"edgequant"}


def test_no_module_of_the_front_loads_a_package_of_others() -> None:
    loaded = loaded_by(modules("edgequant")) - set(sys.stdlib_module_names)
    assert loaded == {"edgequant", "runtime"}  # of the runtime the errors


def test_importing_the_writers_loads_neither_torch_nor_an_upper_layer() -> None:
    loaded = loaded_by(modules("export"))
    assert "export" in loaded
    assert not loaded & {"torch", "transformers", "calib_data", "quantize"}


def test_generating_from_a_checkpoint_loads_neither_torch_nor_a_writer() -> None:
    pytest.importorskip("runtime._native")
    program = (
        "import sys\n"
        "from quantize.cli import main\n"
        "sys.argv = ['quantize', 'generate', 'models/tiny-qwen2.5', 'The town', '-n', '2']\n"
        "try: main()\n"
        "finally: print('\\nLOADED', *{name.split('.')[0] for name in sys.modules})"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    text, _, loaded = run.stdout.partition("\nLOADED ")
    assert run.returncode == 0, run.stderr
    assert text.strip()
    assert "runtime" in loaded.split()
    assert not set(loaded.split()) & (HEAVY | {"export"})


def test_generating_from_a_file_does_not_load_torch() -> None:
    names = ["quantize.cli.use", "quantize.loading", "runtime.generate", "runtime.backends.native"]
    assert not loaded_by(names) & {"torch", "transformers"}
