"""An artifact that is looked at, opened in the engine that judges it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from export import CONTAINERS
from quantize.checkpoint import Checkpoint
from quantize.loading import files_of, open_any, open_model
from runtime.archs import FAMILIES
from runtime.containers import recognise
from runtime.engine import Engine, option_names
from runtime.errors import EdgequantError, InputError
from runtime.model import Model
from runtime.onnx_file import VISION_MODEL
from runtime.tokenizer import Tokenizer
from runtime.vision.seeing import own_tower


@dataclass(frozen=True)
class Subject:
    """An artifact, opened."""

    label: str
    path: Path
    container: str
    backend: str
    engine: Engine
    model: Model | None
    """Its stored tensors; None when only a foreign engine can read them."""
    notes: tuple[str, ...] = ()
    maker: str | None = None
    refused_types: Mapping[str, str] = field(default_factory=dict)
    """Weights that could not have the type that was asked for, with that type."""

    @property
    def bytes(self) -> int:
        """Size on disk, of all files when it is a folder."""
        return bytes_on_disk(self.path)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer as stored."""
        return (self.model and self.model.tokenizer) or self.engine.tokenizer


def bytes_on_disk(path: Path) -> int:
    """Of a file, all parts of it, or all files of a folder; 0 where there is nothing."""
    return sum(file.stat().st_size for file in files_of(path))


def open_subject(label: str, path: Path, backend: str = "native", kv: str | None = None) -> Subject:
    """Open an artifact on `backend` (numpy for a native one not built) or in its foreign engine.

    `kv` is how the native one and llama.cpp keep keys and values; None = float32.
    Raises EdgequantError when the file cannot be read or run at all, and for a `kv` that the engine
    has no choice of.
    """
    reader = recognise(path)
    container = CONTAINERS.get(reader.name)
    notes = []
    if reader.engine != "native":
        backend = reader.engine
    options = {} if kv is None else {"kv": kv}
    if kv is not None and "kv" not in option_names(backend):
        raise InputError(
            f"{label} runs on the {backend} backend, which keeps keys and values in its own way; "
            "leave out --kv."
        )
    try:
        engine = open_any(path, backend, "judging", **options)
    except EdgequantError as error:
        if container is None or backend != "native" or options:
            raise
        notes.append(f"run on the numpy backend, because the native one cannot: {error}")
        backend, engine = "numpy", open_any(path, "numpy")
    try:
        model = open_model(path)
    except EdgequantError as error:
        model = None
        notes.append(
            f"its stored tensors were not looked at, so bits count the whole file: {error}"
        )
    if own_tower(engine):
        tower = sum(file.stat().st_size for file in path.glob(f"{VISION_MODEL}*"))
        notes.append(f"{tower:,} of its bytes are the vision tower, which other files are without")
    maker = container.maker(path) if container else None
    if kv is not None:
        notes.append(f"judged with keys and values kept as {kv}")
    return Subject(label, path, reader.name, backend, engine, model, tuple(notes), maker)


def refuse_another_model(subject: Subject, checkpoint: Checkpoint) -> None:
    """Raise InputError for a file with the sizes of another model: that is no fault of the file."""
    if subject.model is None:
        return
    heads = [arch.score_head for arch in (subject.model.arch, checkpoint.arch)]
    if heads[0] != heads[1]:
        does = ["scores texts by a head" if head else "predicts tokens" for head in heads]
        raise InputError(
            f"{subject.label} {does[0]}, and {checkpoint.name} {does[1]}"
            f"{' of another form' if all(heads) else ''}: it was made from another model; give "
            "that one with --against."
        )
    kinds = [FAMILIES[arch.family].architecture for arch in (subject.model.arch, checkpoint.arch)]
    if kinds[0] != kinds[1]:
        raise InputError(
            f"{subject.label} is a {kinds[0]}, and {checkpoint.name} a {kinds[1]}: it was made "
            "from another model; give that one with --against."
        )
    found, expected = (
        (arch.layers, arch.hidden, arch.vocab) for arch in (subject.model.arch, checkpoint.arch)
    )
    if found != expected:
        raise InputError(
            f"{subject.label} has {found[0]} layers of width {found[1]} and {found[2]} tokens, and "
            f"{checkpoint.name} {expected[0]} of {expected[1]} and {expected[2]}: it was made from "
            "another model; give that one with --against."
        )
