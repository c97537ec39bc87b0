"""The packages of edgequant have common names: say so when Python would find a stranger's first.

A folder with a file `export.py` comes before the installed package `export` whenever Python looks
in the current folder, or in that of the script, first.
"""

import importlib.util
import sys
from pathlib import Path

PACKAGES = ("runtime", "export", "calib_data", "quantize")
HOME = Path(__file__).resolve().parent.parent
"""The folder that all packages of one installation share."""


def refuse_shadowed() -> None:
    """Raise ImportError, in one sentence, when a package of ours would come from elsewhere.

    While Python looks for what `python -m` names nobody could catch it: then the sentence is
    printed, and the program exits with 2.
    """
    sentence = next(filter(None, map(complaint, PACKAGES)), None)
    if sentence is None:
        return
    if sys.argv[:1] == ["-m"]:
        print(f"error {sentence}", file=sys.stderr)
        sys.exit(2)
    raise ImportError(sentence)


def complaint(package: str) -> str | None:
    """What is wrong with the place that a package comes from; None when it is the right one."""
    ours, found = HOME / package, place(package)
    if found is not None and found.parent == ours:
        return None
    if found is None or not ours.exists():
        return f"the package {package} is not in {HOME}, beside edgequant; install edgequant again."
    name = found.parent if found.name == "__init__.py" else found
    return (
        f"{name} hides edgequant's package {package}, which is in {HOME}; "
        "run from another folder, or rename it."
    )


def place(package: str) -> Path | None:
    """The file that `import package` runs, or ran; None when there is none."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # a module that was put into sys.modules by hand
        return None
    return Path(spec.origin).resolve() if spec and spec.origin else None
