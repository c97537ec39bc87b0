"""What all machines of a run have in common, so that no byte says which of them computed it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import export
import quantize
from quantize.checkpoint import Checkpoint, open_checkpoint
from quantize.run.act_order import absorbed_for
from quantize.run.version import processor
from runtime.errors import EdgequantError, InputError, UnsupportedError


@dataclass(frozen=True)
class Source:
    """What every worker must have, and how it computes."""

    model: str | None
    """As `open_checkpoint` takes it; a folder by its whole path."""
    adapters: tuple[str, ...]
    containers: tuple[str, ...]
    """Those that are made: they decide how a checkpoint in act-order is read."""
    code: str
    """See `code_version`."""
    fingerprint: str
    """Of the checkpoint."""
    threads: int
    """Of a piece: sums of products may say how many computed them."""


def opened(source: Source) -> Checkpoint:
    """The checkpoint as the run reads it. Raises EdgequantError for one that is not there."""
    if source.model and source.model.startswith("/") and not Path(source.model).exists():
        raise InputError(f"{source.model} is not there")
    containers = [export.CONTAINERS[name] for name in source.containers]
    return absorbed_for(open_checkpoint(source.model, source.adapters), containers)


def facts(source: Source) -> dict[str, Any]:
    """What a node must have in common with the others: its processor, torch, and the files.

    "wrong" is a sentence where the checkpoint cannot be opened.
    """
    found: dict[str, Any] = {"torch": torch.__version__, "processor": processor(), "wrong": ""}
    try:
        checkpoint = opened(source)
    except EdgequantError as error:
        return found | {"wrong": str(error)}
    sizes = {path.name: path.stat().st_size for path in checkpoint.shards}
    return found | {"fingerprint": checkpoint.fingerprint(), "sizes": sizes}


def refuse_other(name: str, found: dict[str, Any], mine: dict[str, Any], source: Source) -> None:
    """Raise EdgequantError where a node is not as this machine is."""
    own = quantize.__version__
    if "facts" not in found:
        has = f"edgequant {found['version']}, whose code is another" if found["version"] else ""
        raise UnsupportedError(
            f"the Ray node {name} has {has or 'no edgequant (' + found['why'] + ')'}; install "
            f"there the edgequant {own} that this machine has."
        )
    facts, model = found["facts"], source.model or "the bundled model"
    if facts["wrong"]:
        raise InputError(
            f"the Ray node {name} cannot read the model ({facts['wrong'].rstrip('.')}); each node "
            f"needs the files of {model} at the same path: copy them, or mount the folder."
        )
    for file, size in mine["sizes"].items():
        if facts["sizes"].get(file) != size:
            raise InputError(
                f"the Ray node {name} has another {file} of {model} than this machine; copy it "
                "there again."
            )
    if facts["fingerprint"] != mine["fingerprint"]:
        raise InputError(
            f"the Ray node {name} has other files of {model} than this machine; copy them there "
            "again."
        )
    for part in ("torch", "processor"):
        if facts[part] != mine[part]:
            raise UnsupportedError(
                f"the Ray node {name} adds numbers in another order ({part} {facts[part]} instead "
                f"of {mine[part]}), so the artifact would say which node computed what; use nodes "
                "alike."
            )
