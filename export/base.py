"""What a container is: its types and mixtures, its writer, and beside it the reader.

All that the command line, the plan and the reports know of a container is one `Container(...)`, so
adding a container is adding a file.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from export.hashes import unhashed
from export.mixture import Preset
from export.stated import Stated, unstated
from runtime.archs import Arch
from runtime.containers import READERS
from runtime.errors import CorruptFileError, InputError, UnsupportedError
from runtime.quant_types import QuantType
from runtime.reader import Reader
from runtime.tensor import Tensor
from runtime.tokenizer import Tokenizer
from runtime.vision.vision import Vision

CONTAINERS: dict[str, "Container"] = {}
"""Every container by its name; each file of this folder registers its own."""


class Write(Protocol):
    """Write an artifact: tensors come one at a time in file order, with runtime names."""

    def __call__(
        self,
        path: Path,
        arch: Arch,
        tensors: Iterable[Tensor],
        source: Path,
        extra: dict[str, Any],
        *,
        overwrite: bool = False,
    ) -> None: ...


class Size(Protocol):
    """Bytes on disk of the artifact that `write` makes from 2-D weights of these types, exactly.

    The tensors come in file order, the order of `Family.shapes`.
    """

    def __call__(
        self, arch: Arch, types: Mapping[str, QuantType], source: Path, extra: dict[str, Any]
    ) -> int: ...


@dataclass(frozen=True)
class Companion:
    """A small text beside an artifact, made of what is written in it."""

    suffix: str
    """Of its name, in place of the artifact's own."""
    mark: str
    """How each begins: a file that begins otherwise is not overwritten."""
    text: Callable[[Path], str]
    """Raises UnsupportedError for an artifact of which it cannot be made."""

    def path(self, artifact: Path) -> Path:
        """Where that of an artifact goes."""
        return artifact.with_suffix(self.suffix)

    def is_ours(self, path: Path) -> bool:
        """Whether this or an earlier version wrote it."""
        if not path.is_file():
            return False
        return path.read_text(encoding="utf-8", errors="replace").startswith(self.mark)


@dataclass(frozen=True)
class Container:
    """One kind of artifact: what it holds, how it is written, and how it is opened again."""

    reader: Reader
    suffix: str
    """Of the artifact's name: ".gguf" of a file; a folder's has no dot."""
    widest: str
    """Type of a row that no block of the container divides."""
    holds: Callable[[QuantType], bool]
    """Whether tensors of a block type can be stored."""
    presets: Mapping[str, Preset]
    """Mixtures by the name that --to gives them."""
    write: Write
    size: Size
    provenance: Callable[[Path], dict[str, Any]]
    """What the tool that made an artifact wrote into it, as JSON values."""
    maker: Callable[[Path], str | None]
    """The tool that quantized an artifact, as its metadata tells; None where it does not."""
    usage: str
    """How to run it, for the model card: Markdown with {file}, its name as a word of a shell line,
    {literal}, the name in Python or JSON, {model}, the model's name for ollama, and {companion},
    the name of the text beside it. `scoring` is that of a model that scores texts."""
    scoring: str = ""
    stated: Callable[[Path, Arch, Path, Vision | None], Stated] = unstated
    """What an artifact says beside its weights, and what it must say of a model of these sizes,
    small files and tower. Raises EdgequantError for what cannot be read."""
    verify: Callable[[Path], list[str]] = unhashed
    """What changed since it was written, a sentence each; EdgequantError where no hashes are."""
    uniform: bool = False
    """Whether all linears that are packed must be of one type."""
    mixes: Callable[[QuantType], bool] = lambda qtype: True
    """Which of the types that it holds automatic targets choose among."""
    fused: bool = False
    """Whether linears that read one input must be of one type, since readers make one of them."""
    joined: Callable[[Arch], Collection[tuple[str, ...]]] = lambda arch: ()
    """Weights that it stores as one tensor, which has one type."""
    refuses: Callable[[QuantType, np.ndarray], str] | None = None
    """Why it cannot hold rows (rows, row bytes) of a type that it holds, after the weight's name,
    and the way out; "" where it can. None = it can hold all."""
    table_type: str = ""
    """Type of the embedding and the head where they have no choice."""
    own_name: str = ""
    """Where two containers have one reader: the second one's name."""
    seeing: str = ""
    """That of a model that reads images, where it is another one."""
    tower: str = ""
    """Type of the linears of a vision tower that goes into an artifact of rounded weights: `write`
    and `size` then take a `sight`, which is a Sight or None. "" = none goes into one."""
    refuse: Callable[[Arch], object] = lambda arch: None
    """Raises UnsupportedError for a model that readers of an artifact would not compute."""
    tokenizer: Callable[[Arch, Path], Tokenizer | None] = lambda arch, source: None
    """The tokenizer that readers of an artifact will have, from the sizes and the checkpoint's
    folder; None where they get the checkpoint's own. Raises EdgequantError for one that it cannot
    say."""
    reader_notes: Callable[[Tokenizer, Path, Iterable[str]], tuple[str, ...]] = (
        lambda tokenizer, source, texts: ()
    )
    """What a usual reader makes otherwise of the checkpoint's tokenizer, which the artifact has: a
    sentence each, from its folder and from texts to try."""
    model_notes: Callable[[Arch], tuple[str, ...]] = lambda arch: ()
    """What a usual reader makes otherwise of the model: a sentence each."""
    context: Callable[[Arch], int] = lambda arch: arch.context
    """Tokens of the longest text that an artifact computes as the model does."""
    companion: Companion | None = None
    """What goes beside an artifact."""
    cut: str = ""
    """Why that is less than the model's own, after "because"."""

    @property
    def name(self) -> str:
        """What --to and reports call it."""
        return self.own_name or self.reader.name

    def __post_init__(self) -> None:
        CONTAINERS[self.name] = self
        READERS.setdefault(self.reader.name, self.reader)


def check_tensor(
    tensor: Tensor, shapes: Mapping[str, tuple[int, ...]], seen: Mapping[str, object]
) -> None:
    """Raise EdgequantError for a tensor that has no place among `shapes`, or came before."""
    name = tensor.name
    if name not in shapes or name in seen:
        what = "came twice" if name in seen else "is not a tensor of this model"
        raise InputError(f"{name} {what}; pass each tensor of the model once.")
    if tensor.shape != shapes[name]:
        raise CorruptFileError(
            f"{name} has shape {tensor.shape}, but its config.json says {shapes[name]}; "
            "take the config.json that came with the weights."
        )


def check_joined(types: Mapping[str, QuantType], joined: Iterable[tuple[str, ...]]) -> None:
    """Raise UnsupportedError for weights of several types that a container holds as one tensor."""
    for first, *others in joined:
        for other in others:
            if types[other] is not types[first]:
                raise UnsupportedError(
                    f"{first} is {types[first].name} and {other} is {types[other].name}, but they "
                    "are stored as one tensor; give them one type, such as "
                    f"--rule '^({first}|{other})$={types[first].name}'."
                )


def check_complete(shapes: Mapping[str, tuple[int, ...]], seen: Mapping[str, object]) -> None:
    """Raise EdgequantError when a tensor never came."""
    if missing := [name for name in shapes if name not in seen]:
        raise InputError(
            f"{len(missing)} tensors are missing, the first is {missing[0]}; "
            "pass every tensor of the model."
        )


def text_of(value: Any) -> str:
    """A value of an artifact's metadata where that holds texts: JSON of all else."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
