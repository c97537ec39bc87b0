"""A base's arrays as an adapter changes them, every tensor of the adapter put into its place.

What is computed is what PEFT computes when the adapter runs (tests/interop/test_peft.py).
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runtime import adapter as peft
from runtime.adapter import Adapter
from runtime.archs.heads import EMBEDDING, HF_GLOBALS, OUTPUT, SCORE
from runtime.checkpoint_names import without_wrappers
from runtime.errors import CorruptFileError, EdgequantError, UnsupportedError
from runtime.merged import AddBias, Change, LowRank, SetRows, merged
from runtime.stored import StoredArray

TABLES = (HF_GLOBALS[EMBEDDING], HF_GLOBALS[OUTPUT])
"""Weights with a row for each token, of which an adapter may bring another number."""
EXPERT = re.compile(r"\.experts\.\d+\..*")
"""What the name of an expert's tensor ends with."""


def merge_all(
    adapters: Sequence[Adapter],
    arrays: Mapping[str, StoredArray],
    config: dict[str, Any],
    tied: bool,
) -> tuple[dict[str, StoredArray], dict[str, Any], list[str]]:
    """A checked base's arrays and config.json with adapters merged in their order, and notes.

    An embedding with more or fewer rows changes the config's `vocab_size`.
    """
    # the copy of a tied head would keep the base's values
    found = {name: array for name, array in arrays.items() if not tied or name != TABLES[1]}
    notes: list[str] = []
    for adapter in adapters:
        found, told = merge(adapter, found, tied)
        notes += told
    rows, own = (found[name].shape[0] if name in found else None for name in TABLES)
    if own not in (None, rows):
        raise UnsupportedError(
            f"{adapters[-1].folder} leaves an embedding of {rows} tokens and a head of {own}; save "
            "the adapter with both, with save_embedding_layers=True of peft's save_pretrained."
        )
    if rows != config["vocab_size"]:
        notes.append(f"with the adapter the model has {rows} tokens, not {config['vocab_size']}")
        config = config | {"vocab_size": rows}
    return found, config, notes


def merge(
    adapter: Adapter, arrays: Mapping[str, StoredArray], tied: bool
) -> tuple[dict[str, StoredArray], list[str]]:
    """The arrays of the merged model, by the base's names, and what should be said of it.

    `tied`: the base's head is its embedding. A change of one of them then leaves the other as it
    is, as when PEFT runs the adapter. Raises EdgequantError for a tensor that has no place in the
    base, or does not fit there.
    """
    found, notes = dict(arrays), list[str]()
    known = {*arrays, TABLES[1]} if tied else set(arrays)
    copies = {_place(adapter, name, known): array for name, array in adapter.copies.items()}
    modules = {_place(adapter, f"{name}.weight", known): name for name in adapter.modules}
    # rows of single tokens are trained in both at once
    factors = {name for name, own in modules.items() if set(adapter.modules[own]) != {peft.ROWS}}
    split = tied and TABLES[1] not in arrays and not {*copies, *factors}.isdisjoint(TABLES)
    if split:
        found[TABLES[1]] = arrays[TABLES[0]]
        notes += _told_apart(adapter, [name for name in TABLES if name in factors])
    for name, array in copies.items():
        found[name] = _replaced(adapter, name, found[name], array)
    for weight, module in modules.items():
        for name, change in _changes(adapter, module, weight):
            for at in TABLES if split and isinstance(change, SetRows) else (name,):
                found[at] = _changed(adapter, at, found.get(at), change)
    return found, notes


def _told_apart(adapter: Adapter, factors: list[str]) -> list[str]:
    """A note where PEFT's own merge is not what the adapter computes when it runs."""
    if not factors:
        return []
    return [
        f"the adapter {adapter.name} changes {' and '.join(factors)} of a base whose head is its "
        "embedding: each gets its own change, as when peft runs the adapter; peft's "
        "merge_and_unload would put every change into both"
    ]


def _place(adapter: Adapter, name: str, known: set[str]) -> str:
    """The base's name of an array that the adapter names. Raises UnsupportedError for none."""
    plain = without_wrappers(name)
    inner = plain.rpartition("language_model.")[2]  # of a larger model, whose prefix went
    for candidate in (name, plain, inner, f"model.{inner}"):
        if candidate in known:
            return candidate
    if plain.startswith(SCORE) and not any(name.startswith(SCORE) for name in known):
        raise UnsupportedError(
            f"the adapter {adapter.folder} changes {plain} of a model that scores texts, and the "
            "base predicts tokens; load the base with transformers' "
            "AutoModelForSequenceClassification and the num_labels of the training, save it with "
            "save_pretrained, and give that as the base."
        )
    if (fused := EXPERT.sub(".experts.gate_up_proj", inner)) != inner and fused in known:
        raise UnsupportedError(
            f"the adapter {adapter.folder} changes {name}, a single expert, and the base stores "
            f"all of them together ({fused}); give the base as it was released, with a tensor for "
            "each expert."
        )
    raise UnsupportedError(
        f"the adapter {adapter.folder} changes {name}, which the base does not have; "
        f"{_other_base(adapter)}."
    )


def refuse_beside(adapters: Sequence[Adapter], beside: tuple[str, ...]) -> None:
    """Raise UnsupportedError for an adapter of another part than the language model.

    `beside`: what the names of other parts begin with.
    """
    for adapter in adapters:
        names = [*adapter.copies, *adapter.modules]
        found = next((name for name in names if without_wrappers(name).startswith(beside)), None)
        if found is not None:
            raise UnsupportedError(
                f"the adapter {adapter.folder} changes {found}, which is no part of the language "
                "model; merge it with peft's merge_and_unload, and save the whole model."
            )


def _other_base(adapter: Adapter) -> str:
    named = f" ({adapter.base})" if adapter.base else ""
    return f"give the base that it was trained on{named}"


def _replaced(adapter: Adapter, name: str, base: StoredArray, copy: StoredArray) -> StoredArray:
    """The adapter's own copy of an array; of a table the number of rows may be another."""
    rows = 1 if name in TABLES else 0
    if len(copy.shape) != len(base.shape) or copy.shape[rows:] != base.shape[rows:]:
        raise _misfit(adapter, name, base)
    return copy


def _changed(adapter: Adapter, name: str, base: StoredArray | None, change: Change) -> StoredArray:
    if base is None:
        raise UnsupportedError(
            f"the adapter {adapter.folder} adds to {name}, which the base does not have, so that "
            "it cannot be merged; train it without lora_bias."
        )
    if not change.fits(base.shape):
        raise _misfit(adapter, name, base)
    return merged(base, change)


def _misfit(adapter: Adapter, name: str, base: StoredArray) -> EdgequantError:
    return UnsupportedError(
        f"the adapter {adapter.folder} does not fit {name}, whose shape in the base is "
        f"{base.shape}; {_other_base(adapter)}."
    )


def _changes(adapter: Adapter, module: str, weight: str) -> Iterator[tuple[str, Change]]:
    """Array of the base, and what is done to it, for the parts of one module."""
    parts = adapter.modules[module]
    if peft.ROWS in parts:
        yield weight, SetRows(parts[peft.ROWS], _tokens(adapter.config, module))
    if set(parts) == {peft.ROWS}:
        return
    embedding = peft.EMBEDDING_A in parts
    names = (peft.EMBEDDING_A, peft.EMBEDDING_B) if embedding else (peft.A, peft.B)
    a, b, magnitude = parts.get(names[0]), parts.get(names[1]), parts.get(peft.MAGNITUDE)
    dora = bool(adapter.config.get("use_dora"))
    if a is None or b is None or (magnitude is not None) != dora:
        raise CorruptFileError(
            f"{adapter.folder / peft.WEIGHTS} does not hold for {module} what {peft.CONFIG} says; "
            "save the adapter again with peft's save_pretrained."
        )
    scale = _scale(adapter, module, a)
    yield weight, LowRank(a, b, scale, embedding, magnitude)
    if peft.B_BIAS in parts:
        yield f"{weight.removesuffix('weight')}bias", AddBias(parts[peft.B_BIAS], scale)


def _scale(adapter: Adapter, module: str, a: StoredArray) -> float:
    """What B A is multiplied by. Raises EdgequantError for another rank than the settings'."""
    rank = _setting(adapter, "rank_pattern", module, adapter.config.get("r", 8))
    if a.shape[:1] != (rank,):
        raise CorruptFileError(
            f"{adapter.folder / peft.WEIGHTS} has factors of shape {a.shape} for {module}, but "
            f"{peft.CONFIG} says rank {rank}; take the two files of one training."
        )
    alpha = _setting(adapter, "alpha_pattern", module, adapter.config.get("lora_alpha", 8))
    return float(alpha / (math.sqrt(rank) if adapter.config.get("use_rslora") else rank))


def _setting(adapter: Adapter, key: str, module: str, default: Any) -> Any:
    """A setting of one module: that of the first pattern which ends its name, as PEFT matches."""
    for pattern, value in (adapter.config.get(key) or {}).items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        except re.error as error:
            raise CorruptFileError(
                f"{adapter.folder / peft.CONFIG}: {key} has {pattern!r}, which is no pattern "
                f"({error}); correct it."
            ) from error
    return default


def _tokens(config: Mapping[str, Any], module: str) -> tuple[int, ...]:
    """The tokens whose rows an adapter brings: a list, or one for each module."""
    found = config.get("trainable_token_indices") or []
    if isinstance(found, dict):
        found = next((ids for name, ids in found.items() if f".{module}".endswith(f".{name}")), [])
    return tuple(found)
