"""Arrays of a checkpoint under other names than expected: prefixes, and a head of its own."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from runtime.archs import Arch
from runtime.archs.heads import EMBEDDING, HF_GLOBALS, OUTPUT
from runtime.errors import CorruptFileError, EdgequantError, UnsupportedError
from runtime.quant_types import QUANT_TYPES
from runtime.stored import StoredArray, rows_of

FLOATS = ("F32", "F16", "BF16")
"""Types of full precision."""
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module")
"""Parts of a name that a wrapper of the module adds, and no model here has."""
BARE = HF_GLOBALS[EMBEDDING].removeprefix("model.")
"""The embedding's name where AutoModel saved it."""
CHUNK = 1 << 22
"""Values that are compared at a time."""


def without_wrappers(name: str) -> str:
    """A tensor's name without the parts that torch.compile, FSDP or DDP put anywhere in it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


@dataclass(frozen=True)
class Named:
    """The arrays of a checkpoint, by the names that its family gives them."""

    language: dict[str, StoredArray]
    beside: dict[str, StoredArray]
    """Those of other parts of the model, by their names within such a part."""
    notes: list[str]
    """What was taken off the names."""


def unwrapped(arrays: dict[str, StoredArray], beside: tuple[str, ...] = ()) -> Named:
    """The arrays without what wrapping put into their names, and a note of it.

    `beside`: what the names of other parts of the model begin with.
    """
    found, told = _without_parts(arrays)
    others = {name: start for name in found for start in beside if name.startswith(start)}
    apart = {name.removeprefix(start): found[name] for name, start in others.items()}
    language = {name: array for name, array in found.items() if name not in others}
    language, prefix = _without_prefix(language)
    if apart:
        told.append(
            f"the language model alone is calibrated: {len(apart)} tensors of the model's other "
            f"part, {next(iter(others))} the first, are left aside"
        )
    return Named(language, apart, told + prefix)


def refuse_without(part: str, config: Mapping[str, object], named: Named) -> None:
    """Raise CorruptFileError where config.json has another part and no array is of it."""
    if config.get(f"{part}_config") and not named.beside:
        raise CorruptFileError(
            f"config.json has a {part}_config, but the weights hold no tensor of a {part} tower; "
            f"download all shards, or take {part}_config out to go without it."
        )


def _without_parts(arrays: dict[str, StoredArray]) -> tuple[dict[str, StoredArray], list[str]]:
    """The arrays without the names of wrappers, unless two would then have the same name."""
    plain = {without_wrappers(name): array for name, array in arrays.items()}
    parts = {part for name in arrays for part in name.split(".") if part in WRAPPERS}
    if not parts or len(plain) < len(arrays):
        return arrays, []
    return plain, [f"{', '.join(sorted(parts))} was taken out of the tensors' names"]


def _without_prefix(arrays: dict[str, StoredArray]) -> tuple[dict[str, StoredArray], list[str]]:
    """The arrays without a prefix that stands before every name, and a note of it."""
    found = _embeddings(arrays)
    if len(found) != 1 or found[0] == HF_GLOBALS[EMBEDDING]:
        return arrays, []
    bare, prefix = not _is_whole(found[0]), _prefix(found[0])
    head = HF_GLOBALS[OUTPUT]

    def plain(name: str) -> str:
        name = name.removeprefix(prefix)
        return f"model.{name}" if bare and name != head else name

    if not all(name.startswith(prefix) or name == head for name in arrays):
        return arrays, []
    told = f"the prefix {prefix} was taken off" if prefix else "model. was put before"
    return {plain(name): array for name, array in arrays.items()}, [f"{told} every tensor's name"]


def _embeddings(arrays: Iterable[str]) -> list[str]:
    """Names of embeddings, under any prefix."""
    return [name for name in arrays if f".{name}".endswith(f".{BARE}")]


def _is_whole(name: str) -> bool:
    """Whether "model." stands before an embedding's bare name."""
    return f".{name}".endswith(f".{HF_GLOBALS[EMBEDDING]}")


def _prefix(name: str) -> str:
    """What stands before an embedding's name."""
    return name.removesuffix(HF_GLOBALS[EMBEDDING] if _is_whole(name) else BARE)


def with_own_head(arch: Arch, arrays: Mapping[str, StoredArray]) -> tuple[Arch, list[str]]:
    """The sizes, with a head of its own where the file has one that is not the embedding."""
    head, embedding = arrays.get(HF_GLOBALS[OUTPUT]), arrays.get(HF_GLOBALS[EMBEDDING])
    if not arch.tied or head is None or embedding is None:
        return arch, []
    if head.dtype not in QUANT_TYPES:
        raise UnsupportedError(
            f"{HF_GLOBALS[OUTPUT]} is {head.dtype}, not F32, F16 or BF16; save it as one of them, "
            "or leave it out where it is the embedding."
        )
    if _equal(head, embedding):
        return arch, []
    return replace(arch, tied=False), [
        f"config.json has tie_word_embeddings true, but {HF_GLOBALS[OUTPUT]} is not the "
        "embedding: it is used, as transformers does"
    ]


def unused_head(arch: Arch, arrays: Mapping[str, StoredArray]) -> list[str]:
    """A note of a head for tokens in a model that scores."""
    if arch.score_head is None or HF_GLOBALS[OUTPUT] not in arrays:
        return []
    return [f"{HF_GLOBALS[OUTPUT]} is left out: the model scores texts and predicts no tokens"]


def misplaced(arrays: Mapping[str, StoredArray]) -> EdgequantError | None:
    """The error of arrays under a prefix that does more than wrap; None where that is not so."""
    if unmerged := next((name for name in arrays if ".lora_A." in name), None):
        return UnsupportedError(
            f"the checkpoint holds a LoRA that is not merged ({unmerged}); merge it with peft's "
            "merge_and_unload, and save the merged model."
        )
    found = _embeddings(arrays)
    if HF_GLOBALS[EMBEDDING] in arrays or not found:
        return None
    prefix = _prefix(found[0])
    other = next((name for name in arrays if not name.startswith(prefix)), found[-1])
    return UnsupportedError(
        f"the checkpoint holds a language model under the prefix {prefix!r} beside {other}, so it "
        "is a part of a larger model; save the language model alone."
    )


def _equal(one: StoredArray, other: StoredArray) -> bool:
    """Whether two matrices hold the same values; of those that are none it is told elsewhere."""
    if one.shape != other.shape or len(one.shape) != 2 or other.dtype not in QUANT_TYPES:
        return one.shape == other.shape
    tensors = [rows_of(OUTPUT, one.shape, [array]) for array in (one, other)]
    step = max(1, CHUNK // one.shape[1])
    starts = range(0, one.shape[0], step)
    same = all(
        np.array_equal(tensors[0].decode(at, at + step), tensors[1].decode(at, at + step))
        for at in starts
    )
    for array in (one, other):
        array.drop()
    return same
