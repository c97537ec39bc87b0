"""`--to CONTAINER:PRESET`: what one artifact is to be."""

from dataclasses import dataclass
from pathlib import Path

from export import CONTAINERS
from quantize.plan.values import checked_text
from runtime.errors import InputError

AUTO = "auto"
"""Stands for a preset where types are allocated by measured loss (allocate.py)."""


@dataclass(frozen=True)
class Target:
    """One artifact: a container and the mixture of types in it."""

    container: str
    preset: str

    @staticmethod
    def parse(text: "str | Target") -> "Target":
        """From "gguf:Q4_K_M". Raises InputError naming the known containers or presets."""
        if isinstance(text, Target):
            return text
        text = checked_text(text, "--to", "gguf:Q4_K_M")
        container, _, preset = text.partition(":")
        if container not in CONTAINERS:
            raise InputError(
                f"unknown container {container!r} in --to {text}; known: {', '.join(CONTAINERS)}."
            )
        if preset == AUTO:
            return Target(container, AUTO)
        presets = CONTAINERS[container].presets
        for known in presets:
            if known.lower() == preset.lower():
                return Target(container, known)
        problem = f"unknown preset {preset!r}" if preset else "there is no preset"
        raise InputError(
            f"{problem} in --to {text}; known for {container}: "
            f"{', '.join(presets)}, or {AUTO} with --target-size, --target-bpw or --max-kl."
        )

    @property
    def automatic(self) -> bool:
        """Whether types are chosen tensor by tensor to reach a size or a loss."""
        return self.preset == AUTO

    @property
    def label(self) -> str:
        """The --to spelling."""
        return f"{self.container}:{self.preset}"

    def path(self, folder: Path, model: str) -> Path:
        """Where the artifact goes."""
        return folder / f"{model}-{self.preset}{CONTAINERS[self.container].suffix}"
