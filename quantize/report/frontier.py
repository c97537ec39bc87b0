"""Which artifacts are worth their bytes: the frontier of size against KL, and what beats the rest.

One artifact dominates another when it is no larger and no worse in KL, and better in one of the
two. What nothing dominates is on the frontier; of equal artifacts none dominates the other. All
were measured on the same windows, so two of them are compared window by window.
"""

from dataclasses import dataclass

import numpy as np

from quantize.report.metrics import standard_error


@dataclass(frozen=True)
class FrontierEntry:
    """An artifact as the frontier sees it."""

    label: str
    bytes: int
    kl: float
    """Mean, nats a token."""
    windows: np.ndarray
    """Mean KL of each window (W,): the same windows in the same order for every artifact."""
    usable: bool = True
    """False when a gate failed: such an artifact dominates nothing and is not on the frontier."""


@dataclass(frozen=True)
class Standing:
    """Where one artifact stands among the others."""

    label: str
    frontier: bool
    rival: str | None = None
    """The artifact that dominates this one (see `standings`); None where nothing does."""
    saved: int = 0
    """Bytes that the rival has fewer."""
    difference: float = 0.0
    """Mean KL above the rival's, over windows."""
    error: float | None = None
    """Standard error of the difference, from its value in each window; None for one window."""

    @property
    def clear(self) -> bool:
        """Whether the difference is beyond its standard error."""
        return self.error is not None and self.difference > self.error

    @property
    def beaten_by(self) -> str | None:
        """The rival, unless the two are a tie in KL."""
        return self.rival if self.clear else None

    def sentence(self) -> str | None:
        """What dominates the artifact and by how much; None where nothing does."""
        if self.rival is None:
            return None
        size = f"{self.saved:,} bytes fewer" if self.saved else "as many bytes"
        error = "" if self.error is None else f"±{self.error:.5f}"
        told = f"{size} and {self.difference:.5f}{error} less KL"
        if self.clear:
            return f"{self.label} is beaten by {self.rival}, with {told}."
        if self.error is None:
            return (
                f"{self.label} may be beaten by {self.rival}, with {told}: one window gives no "
                "standard error."
            )
        return f"{self.label} ties with {self.rival}, with {told}: within the standard error."


def dominates(one: FrontierEntry, other: FrontierEntry) -> bool:
    """Whether `one` is no larger and no worse than `other`, and smaller or better."""
    no_worse = one.bytes <= other.bytes and one.kl <= other.kl
    return no_worse and (one.bytes < other.bytes or one.kl < other.kl)


def standings(entries: list[FrontierEntry]) -> list[Standing]:
    """The standing of each entry, in their order.

    The rival is, of the usable artifacts that dominate one, the best in KL of those that are better
    beyond the standard error of the paired difference, or of all where none is.
    """
    return [standing(entry, entries) for entry in entries]


def standing(entry: FrontierEntry, entries: list[FrontierEntry]) -> Standing:
    """The standing of one entry among all."""
    above = [other for other in entries if other.usable and dominates(other, entry)]
    if not above:
        return Standing(entry.label, entry.usable)
    met = [against(entry, other) for other in above]
    order = [
        (not m.clear, o.kl, o.bytes, i) for i, (m, o) in enumerate(zip(met, above, strict=True))
    ]
    return met[min(order)[-1]]


def against(entry: FrontierEntry, rival: FrontierEntry) -> Standing:
    """An entry beside one that dominates it."""
    differences = entry.windows - rival.windows  # (W,)
    return Standing(
        label=entry.label,
        frontier=False,
        rival=rival.label,
        saved=entry.bytes - rival.bytes,
        difference=float(differences.mean()),
        error=standard_error(differences),
    )
