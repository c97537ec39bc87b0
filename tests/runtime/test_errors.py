"""Every error has a kind, and every kind one base class."""

import ast
import pickle
import re
from pathlib import Path

import pytest

from calib_data import CalibrationError
from runtime import errors
from runtime.errors import EdgequantError, GateError, InputError

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDERS = ("calib_data", "runtime", "export", "quantize", "edgequant", "bench")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
KINDS = [InputError, errors.UnsupportedError, errors.CorruptFileError, errors.SpaceError, GateError]


def raised_bare(tree: ast.AST) -> list[int]:
    """Lines on which the base class is made or raised."""
    made = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    made += [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc]
    names = {"EdgequantError"}
    return [
        found.lineno
        for found in made
        if (isinstance(found, ast.Name) and found.id in names)
        or (isinstance(found, ast.Attribute) and found.attr in names)
    ]


def test_the_base_class_is_found_however_it_is_raised() -> None:
    program = "raise EdgequantError\nraise errors.EdgequantError('a')\ndef f():\n"
    program += " return EdgequantError('b')\nraise InputError('c')\n"
    assert sorted(set(raised_bare(ast.parse(program)))) == [1, 2, 4]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_error_has_a_kind(path: Path) -> None:
    assert not raised_bare(ast.parse(path.read_text(encoding="utf-8")))


def test_the_kernels_raise_kinds_of_the_tree() -> None:
    text = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "runtime/native").rglob("*.*"))
    named = set(re.findall(r'"(\w+Error)"', text))
    assert named >= {"InputError", "CorruptFileError"}
    assert named <= {kind.__name__ for kind in KINDS}


@pytest.mark.parametrize("kind", [*KINDS, CalibrationError], ids=lambda kind: kind.__name__)
def test_every_kind_is_caught_by_the_base_class(kind: type[EdgequantError]) -> None:
    with pytest.raises(EdgequantError, match="^No room: free some.$|^gate failed: No room"):
        raise kind(["No room"]) if kind is GateError else kind("No room: free some.")


def test_bad_input_is_a_value_error_too_and_no_other_kind_is() -> None:
    assert [kind for kind in KINDS if issubclass(kind, ValueError)] == [InputError]
    assert issubclass(CalibrationError, InputError)


def test_a_failed_gate_carries_its_sentences_and_the_result_through_a_pickle() -> None:
    error = pickle.loads(pickle.dumps(GateError(["a: KL is high", "b: NaN"], {"kl": 0.5})))
    assert (error.failures, error.result) == (("a: KL is high", "b: NaN"), {"kl": 0.5})
    assert str(error) == "gate failed: a: KL is high; b: NaN."


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_a_sentence_is_one_line_whatever_a_file_calls_itself(kind: type[EdgequantError]) -> None:
    error = kind("the kind LO\nRA\r\x1b[31m\u2028\udcff of caf\u00e9 \U0001f600")
    assert str(error) == "the kind LO\\nRA\\r\\x1b[31m\\u2028\\udcff of caf\u00e9 \U0001f600"


def test_a_failed_gate_is_one_line() -> None:
    assert str(GateError(["a\nb: KL", "c"])) == "gate failed: a\\nb: KL; c."
