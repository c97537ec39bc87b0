"""How much of the original is lost at the same bytes: by method, and against public quantizers.

    python bench/accuracy.py [--tables methods llamacpp onnxruntime] [--models tiny outliers narrow]
                             [--texts FILE ...] [--chunks 12] [--derived FOLDER]

`methods` compares our own methods (methods.py). `llamacpp` puts our files against those that
llama.cpp's quantizer makes with an importance matrix from the same calibration rows (rival.py),
`onnxruntime` our folders against onnxruntime's quantizers (rival_onnx.py), each judged in the
rival's own engine (judge.py), ours at no more bytes than the rival. Models are the bundled one,
the two that derive.py makes of it, or folders of any checkpoints. Texts are files that no
calibration has seen; without any, the held-out part of the built-in text. Needs the extra
`interop`. Prints tables and writes results/accuracy.json, accuracy_rival.json, accuracy_onnx.json.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import edgequant
from bench import common, derive, judge, methods, rival, rival_onnx
from export.onnx_graph import HEAD_MULTIPLE
from quantize.checkpoint import Checkpoint, bundled, open_checkpoint
from runtime.backends.llamacpp import open as open_llamacpp
from runtime.engine import Engine
from runtime.tensor import is_matrix

TABLES = ("methods", "llamacpp", "onnxruntime")
TINY, OUTLIERS, NARROW = "tiny", "outliers", "narrow"
"""What the bundled model and those derived from it are called here."""


@dataclass(frozen=True)
class Settings:
    """What the comparisons with public quantizers need to know."""

    models: tuple[str, ...]
    texts: tuple[Path, ...]
    chunks: int
    derived: Path
    presets: tuple[str, ...]
    algorithms: tuple[str, ...]
    same_mixture: bool
    jobs: int
    """Models that are worked on at once."""

    def checkpoint(self, model: str) -> Checkpoint:
        """A model by its name or folder; a derived one is made when it is not there yet."""
        if model == TINY:
            return open_checkpoint(bundled())
        if model not in (OUTLIERS, NARROW):
            return open_checkpoint(model)
        folder = self.derived / model
        if not (folder / "config.json").exists():
            make = derive.outliers if model == OUTLIERS else derive.narrow
            make(open_checkpoint(bundled()), folder)
        return open_checkpoint(folder)

    def windows(self, checkpoint: Checkpoint) -> judge.Texts:
        """What is judged on."""
        return judge.read(checkpoint, list(self.texts), self.chunks)


def ours(checkpoint: Checkpoint, target: str, folder: Path, **flags: Any) -> Path:
    """Our artifact of a target, from the calibration rows that the rival had."""
    given = {
        "model": str(checkpoint.folder),
        "to": [target],
        "rows": rival.ROWS,
        "length": rival.LENGTH,
        "output": str(folder),
        "check": False,
    }
    return edgequant.quantize(**(given | flags)).artifacts[0].path


def ours_at(checkpoint: Checkpoint, budget: int, folder: Path) -> Path:
    """Our best GGUF file of at most `budget` bytes."""
    return ours(checkpoint, "gguf:auto", folder, target_size=budget, effort="high")


def our_folder_at(checkpoint: Checkpoint, original: Path, budget: int, folder: Path) -> Path:
    """Our best ONNX folder whose arrays take at most `budget` bytes, padding not counted.

    `original` is the folder with all matrices in float32.
    """
    shapes = checkpoint.arch.shapes().values()
    cells = sum(math.prod(shape) for shape in shapes if is_matrix(shape))
    rest = rival_onnx.weight_bytes(original) - 4 * cells
    bits = 8 * (budget - rest) / cells
    return ours(checkpoint, "onnx-f16:auto", folder, target_bpw=bits, effort="high")


def row(model: str, name: str, sizes: tuple[int, int], kl: tuple[float, float]) -> dict[str, Any]:
    """A line of a table: sizes and KL are the rival's, then ours."""
    return {
        "model": model,
        "rival": name,
        "rival_bytes": sizes[0],
        "rival_kl": kl[0],
        "ours_bytes": sizes[1],
        "ours_kl": kl[1],
        "ratio": kl[1] / kl[0],
    }


def lines(
    model: str, name: str, sizes: tuple[int, int], rivals: judge.Judged, own: judge.Judged
) -> Iterator[dict[str, Any]]:
    """The line of all windows, and one for each text."""
    yield row(model, name, sizes, (rivals.mean, own.mean)) | {"text": "all"}
    for text in rivals.kl:
        yield row(model, name, sizes, (rivals.of(text), own.of(text))) | {"text": text}


def against_llamacpp(model: str, settings: Settings, folder: Path) -> list[dict[str, Any]]:
    """llama.cpp's file of each preset, and ours at no more bytes."""
    checkpoint = settings.checkpoint(model)
    theirs = rival.make(checkpoint, settings.presets, folder / "theirs")
    files: dict[str, Path] = {}
    for preset in settings.presets:
        files[f"rival {preset}"] = theirs[preset]
        budget, place = theirs[preset].stat().st_size, folder / preset
        files[f"ours {preset}"] = (
            ours(checkpoint, f"gguf:{preset}", place)
            if settings.same_mixture
            else ours_at(checkpoint, budget, place)
        )
    engines: dict[str, Engine] = {label: open_llamacpp(file) for label, file in files.items()}
    texts = settings.windows(checkpoint)
    found = judge.judge(open_llamacpp(theirs["F32"]), engines, texts)
    rows: list[dict[str, Any]] = []
    for preset in settings.presets:
        pair = f"rival {preset}", f"ours {preset}"
        sizes = files[pair[0]].stat().st_size, files[pair[1]].stat().st_size
        rows += lines(model, preset, sizes, found[pair[0]], found[pair[1]])
    return rows


def against_onnxruntime(model: str, settings: Settings, folder: Path) -> list[dict[str, Any]]:
    """Each of onnxruntime's quantizers at 4 bits in blocks of 32, and ours at no more bytes."""
    checkpoint = settings.checkpoint(model)
    if checkpoint.arch.head_dim % HEAD_MULTIPLE:
        print(f"{model} is left out: onnxruntime rotates no heads of {checkpoint.arch.head_dim}")
        return []
    original, source = rival_onnx.originals(checkpoint, folder / "originals")
    folders = {
        algorithm: rival_onnx.quantize(checkpoint, source, folder / algorithm, algorithm)
        for algorithm in settings.algorithms
    }
    sizes = {algorithm: rival_onnx.weight_bytes(made) for algorithm, made in folders.items()}
    for size in set(sizes.values()):
        place = folder / f"ours {size}"
        folders[place.name] = (
            ours(checkpoint, "onnx:int4", place)
            if settings.same_mixture
            else our_folder_at(checkpoint, original, size, place)
        )
    engines: dict[str, Engine] = {}
    for label, made in folders.items():
        engines[label] = rival_onnx.open_engine(made)
    texts = settings.windows(checkpoint)
    found = judge.judge(rival_onnx.open_engine(original), engines, texts)
    rows: list[dict[str, Any]] = []
    for algorithm, size in sizes.items():
        own = f"ours {size}"
        pair = size, rival_onnx.weight_bytes(folders[own])
        rows += lines(model, algorithm, pair, found[algorithm], found[own])
    return rows


COMPARISONS = {
    "llamacpp": ("accuracy_rival", against_llamacpp),
    "onnxruntime": ("accuracy_onnx", against_onnxruntime),
}
"""Table -> the file it is kept in, and what makes a model's rows."""


def in_a_folder(
    against: Callable[[str, Settings, Path], common.Rows], settings: Settings, model: str
) -> common.Rows:
    """The rows of one model; its files are gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        return against(model, settings, Path(folder))


def compare(table: str, settings: Settings) -> common.Rows:
    """Make one of COMPARISONS for every model, print it, keep it; the lines of all windows."""
    name, against = COMPARISONS[table]
    work = partial(in_a_folder, against, settings)
    every = common.side_by_side(work, settings.models, settings.jobs)
    rows = [
        {k: v for k, v in line.items() if k != "text"} for line in every if line["text"] == "all"
    ]
    parts = [line for line in every if line["text"] != "all"]
    print(common.table(rows), flush=True)
    if len(parts) > len(rows):  # several texts
        print(f"\n{common.table(parts)}", flush=True)
    texts = settings.windows(settings.checkpoint(settings.models[0]))
    facts = {
        "rival": rival.version() if table == "llamacpp" else rival_onnx.version(),
        "calibration_tokens": rival.ROWS * rival.LENGTH,
        "windows": {text: len(ids) for text, ids in texts.items()},
        "by_text": parts,
    }
    common.write(name, rows, **facts)
    return rows


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--models", nargs="+", default=[TINY, OUTLIERS, NARROW])
    parser.add_argument("--texts", nargs="+", type=Path, default=[])
    parser.add_argument("--jobs", type=int, default=1, help="models worked on at once")
    parser.add_argument("--chunks", type=int, default=12, help="windows of each text")
    parser.add_argument("--derived", type=Path, default=common.ROOT / "build" / "derived")
    parser.add_argument("--presets", nargs="+", default=list(rival.PRESETS))
    parser.add_argument(
        "--algorithms", nargs="+", choices=rival_onnx.ALGORITHMS, default=rival_onnx.ALGORITHMS
    )
    parser.add_argument(
        "--same-mixture", action="store_true", help="ours in the rival's types, plain effort"
    )
    parser.add_argument("--windows", type=int, default=32, help="of the table of methods")
    parser.add_argument("--rows", type=int, default=64, help="calibration rows of that table")
    parser.add_argument("--types", nargs="+", choices=methods.TYPES, default=list(methods.TYPES))
    parser.add_argument("--methods", nargs="+", default=list(methods.METHODS))
    return parser.parse_args()


def main() -> None:
    """Make every table that is asked for."""
    flags = parse()
    torch.set_num_threads(len(common.cores()))
    settings = Settings(
        models=tuple(flags.models),
        texts=tuple(flags.texts),
        chunks=flags.chunks,
        derived=flags.derived,
        presets=tuple(flags.presets),
        algorithms=tuple(flags.algorithms),
        same_mixture=flags.same_mixture,
        jobs=flags.jobs,
    )
    if "methods" in flags.tables:
        methods.run(flags.types, flags.methods, flags.rows, flags.windows)
    for table in COMPARISONS:
        if table in flags.tables:
            compare(table, settings)


if __name__ == "__main__":
    main()
