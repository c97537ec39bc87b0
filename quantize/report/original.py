"""Which engine runs the original that artifacts are judged against."""

from typing import Any

from quantize.checkpoint import Checkpoint
from quantize.report.scan import weights
from runtime.archs import Arch
from runtime.engine import Engine, OpsEngine, open_engine, reads_files
from runtime.errors import InputError

TORCH_WEIGHTS = 2_000_000_000
"""Up to so many weights the original runs on torch, decoded to float32: 8 GB."""

REFERENCES = ("native", "numpy", "torch", "transformers")
"""Backends that run a checkpoint."""


def original_backend(arch: Arch, device: str, most: int = TORCH_WEIGHTS) -> str:
    """Torch, or on the CPU for over `most` weights the native engine: they stay in their file."""
    return "native" if device == "cpu" and weights(arch) > most else "torch"


def check_reference(reference: str | None) -> None:
    """Raise InputError for a backend that does not run checkpoints."""
    if reference is not None and reference not in REFERENCES:
        raise InputError(
            f"{reference!r} does not run the original; known: {', '.join(REFERENCES)}."
        )


def open_original(checkpoint: Checkpoint, backend: str, device: str) -> Engine:
    """The full-precision model, ready to run; transformers reads its files itself."""
    options: dict[str, Any] = {} if backend in ("native", "numpy") else {"device": device}
    if reads_files(backend) and checkpoint.folder.is_file():
        raise InputError(
            f"the original is the file {checkpoint.folder}, and {backend} is asked for checkpoint "
            "folders alone; leave out --reference, or take one of ours."
        )
    if backend == "native":
        # products with packed weights would round activations, which a reference must not
        options["exact"] = checkpoint.is_packed
    if reads_files(backend):
        options["adapters"] = [adapter.folder for adapter in checkpoint.adapters]
    model = checkpoint.folder if reads_files(backend) else checkpoint.model()
    return open_engine(model, backend, purpose="judging", **options)


def for_effects(original: Engine, checkpoint: Checkpoint, device: str) -> OpsEngine:
    """An engine whose single tensors can be exchanged: the original's, or one of ours beside it."""
    if isinstance(original, OpsEngine):
        return original
    ours = open_original(checkpoint, original_backend(checkpoint.arch, device), device)
    assert isinstance(ours, OpsEngine)
    return ours
