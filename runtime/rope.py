"""Rotary position embedding: the frequencies of every scaling that Qwen2.5 and Llama use.

Follows Su et al. 2021; "llama3" is Llama 3.1's scaling, "yarn" is Peng et al. 2023 (Qwen2.5's long
context).
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from runtime import rope_config
from runtime.errors import CorruptFileError, UnsupportedError

ORIGINAL = "original_max_position_embeddings"


@dataclass(frozen=True)
class Rope:
    """How positions turn into angles."""

    theta: float = 10000.0
    rope_type: str = "default"
    """default, linear, llama3, yarn, or factors (GGUF's own table of divisors)."""
    factor: float = 1.0
    original_context: int = 0
    """Context the model was trained with, in tokens (llama3, yarn)."""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    """Factor on cos and sin; None = yarn's own 0.1 ln(factor) + 1, else 1."""
    truncate: bool = True
    """Whether the ends of yarn's ramp are whole channels."""

    factors: tuple[float, ...] = ()
    """What each plain frequency is divided by (factors): head_dim / 2 of them."""

    def __post_init__(self) -> None:
        if self.rope_type == "yarn" and self.theta <= 1:
            raise CorruptFileError(
                f"the base of the rope is {self.theta:g}, and yarn needs one above 1; take the "
                "file that came with the weights."
            )

    @property
    def divided(self) -> bool:
        """Whether GGUF stores this scaling as a table of divisors, `rope_freqs.weight`."""
        return self.rope_type in ("llama3", "factors")

    @property
    def magnitude(self) -> float:
        """What cos and sin are multiplied by (yarn's mscale; 1 otherwise)."""
        if self.attention_factor is not None:
            return self.attention_factor
        return self.yarn_magnitude

    @property
    def yarn_magnitude(self) -> float:
        """The magnitude that yarn gives by itself."""
        return (
            0.1 * math.log(self.factor) + 1 if self.rope_type == "yarn" and self.factor > 1 else 1.0
        )

    def frequencies(self, head_dim: int) -> np.ndarray:
        """Angle per position of each pair of channels: (head_dim / 2,) float64."""
        plain = self.theta ** -(np.arange(0, head_dim, 2) / head_dim)
        if self.rope_type == "linear":
            return np.asarray(plain / self.factor)
        if self.rope_type == "llama3":
            return np.asarray(plain / self._llama3_divisors(plain))
        if self.rope_type == "factors":
            return np.asarray(plain / np.array(self.factors))
        if self.rope_type == "yarn":
            keep = self._yarn_kept(head_dim)
            return np.asarray(plain / self.factor * (1 - keep) + plain * keep)
        return np.asarray(plain)

    def divisors(self, head_dim: int) -> np.ndarray:
        """Plain over scaled frequency: (head_dim / 2,) float32, GGUF's rope_freqs tensor."""
        plain = self.theta ** -(np.arange(0, head_dim, 2) / head_dim)
        return np.asarray(plain / self.frequencies(head_dim), np.float32)

    def _llama3_divisors(self, plain: np.ndarray) -> np.ndarray:
        """1 for short wavelengths, `factor` for long ones, a smooth passage between."""
        turns = self.original_context * plain / (2 * math.pi)
        smooth = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        smooth = np.clip(smooth, 0, 1)
        return np.asarray(1 / ((1 - smooth) / self.factor + smooth))

    def _yarn_kept(self, head_dim: int) -> np.ndarray:
        """How much of the plain frequency each pair keeps: fast channels 1, slow ones 0."""

        def channel(turns: float) -> float:
            return (head_dim * math.log(self.original_context / (turns * 2 * math.pi))) / (
                2 * math.log(self.theta)
            )

        low, high = channel(self.beta_fast), channel(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        span = high - low or 0.001
        ramp = (np.arange(head_dim // 2) - low) / span
        return np.asarray(1 - np.clip(ramp, 0, 1))

    def tables(self, start: int, stop: int, head_dim: int) -> tuple[np.ndarray, np.ndarray]:
        """cos and sin of positions start..stop: two (stop - start, head_dim / 2) float32."""
        # float32 like every reference implementation: at position 30,000 the rounding shows
        frequencies = self.frequencies(head_dim).astype(np.float32)
        angles = np.arange(start, stop, dtype=np.float32)[:, None] * frequencies
        scale = np.float32(self.magnitude)
        return np.cos(angles) * scale, np.sin(angles) * scale

    @staticmethod
    def from_config(config: dict[str, Any], theta: float = 10000.0) -> "Rope":
        """Read `rope_theta`/`rope_scaling` or the newer `rope_parameters` of a HF config.

        `theta` is the family's, where the config has none.

        Where both are there, `rope_scaling` counts, as for transformers. Raises UnsupportedError
        for a scaling this runtime does not compute.
        """
        scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
        rope_config.refuse_by_layer(scaling)
        rope_type = scaling.get("rope_type") or scaling.get("type") or "default"
        if rope_type not in ("default", "linear", "llama3", "yarn"):
            raise UnsupportedError(
                f"config.json asks for rope scaling {rope_type!r}; "
                "supported: default, linear, llama3, yarn."
            )
        rope_config.refuse_partial(scaling, config)
        rope_config.refuse_incomplete(scaling, rope_type)
        context = scaling.get(ORIGINAL)
        if rope_type in ("llama3", "yarn"):  # as transformers, which looks beside it first
            context = config.get(ORIGINAL) or context
        optional = ["low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow"]
        if rope_type == "yarn":  # the others ignore it
            optional.append("attention_factor")
        found: dict[str, Any] = {
            key: float(scaling[key]) for key in optional if scaling.get(key) is not None
        }
        if rope_type == "yarn":
            found |= {"truncate": bool(scaling.get("truncate", True))}
            found.setdefault("attention_factor", rope_config.attention_factor(scaling))
        return Rope(
            theta=rope_config.theta(scaling, config) or theta,
            rope_type=rope_type,
            factor=float(scaling.get("factor") or 1.0),
            original_context=int(context or config.get("max_position_embeddings") or 0),
            **found,
        )

    @staticmethod
    def notes(config: dict[str, Any]) -> tuple[str, ...]:
        """What of a HF config's rope settings is left out, one sentence each."""
        scaling, stored = config.get("rope_scaling"), config.get("rope_parameters")
        notes = []
        if scaling and stored and scaling != stored:
            notes.append(
                "config.json has rope_scaling and other rope_parameters: rope_scaling is used, as "
                "transformers does"
            )
        beside, inside = config.get(ORIGINAL), (scaling or stored or {}).get(ORIGINAL)
        if beside and inside and beside != inside:
            notes.append(
                f"config.json has {ORIGINAL} {beside} beside its rope settings and {inside} in "
                "them: the former is used, as transformers does"
            )
        unknown = sorted((scaling or stored or {}).keys() - rope_config.KEYS)
        if unknown:
            notes.append(
                f"config.json's rope settings have {', '.join(unknown)}, which transformers does "
                "not read either"
            )
        return tuple(notes)

    def context(self, trained: int) -> int:
        """Tokens that fit where config.json says `trained`: yarn stretches what it started from."""
        if self.rope_type != "yarn":
            return trained
        return max(trained, int(self.factor * self.original_context))

    def gguf_keys(self) -> dict[str, Any]:
        """GGUF metadata, without the architecture before; `divided` kinds need the tensor too."""
        keys: dict[str, Any] = {"rope.freq_base": self.theta}
        if self.rope_type not in ("linear", "yarn"):
            return keys
        keys |= {"rope.scaling.type": self.rope_type, "rope.scaling.factor": self.factor}
        if self.rope_type == "yarn":
            keys |= {
                "rope.scaling.original_context_length": self.original_context,
                "rope.scaling.attn_factor": self.magnitude / self.yarn_magnitude,
                "rope.scaling.yarn_beta_fast": self.beta_fast,
                "rope.scaling.yarn_beta_slow": self.beta_slow,
            }
        return keys

    @staticmethod
    def from_gguf(
        keys: dict[str, Any], context: int, factors: tuple[float, ...] | None = None
    ) -> "Rope":
        """From the keys that llama.cpp reads, and the divisors where the file has them.

        `context` is the model's, for yarn without one of its own.

        Raises EdgequantError for a scaling that this runtime does not compute, or for bad numbers.
        """
        factor = keys.get("rope.scaling.factor", keys.get("rope.scale_linear"))  # its older name
        keys = keys | {"rope.scaling.factor": factor or 1.0}
        # llama.cpp takes a factor of no type for a linear one, and a factor of 0 for none
        rope_type = str(keys.get("rope.scaling.type", "linear" if factor else "none"))
        if rope_type not in GGUF_KINDS or (factors and rope_type != "none"):
            raise UnsupportedError(
                f"the GGUF asks for rope scaling {rope_type!r}"
                f"{' with divisors' if factors else ''}; supported: {', '.join(GGUF_KINDS)}, "
                "and divisors without another scaling."
            )
        keys = {"rope.scaling.original_context_length": context} | keys
        found = {field: keys.get(key, usual) for field, (key, usual) in GGUF_KEYS.items()}
        for name, value in (
            found | {f"divisor {n}": v for n, v in enumerate(factors or ())}
        ).items():
            if not isinstance(value, int | float) or not 0 < value < math.inf:
                raise CorruptFileError(
                    f"the GGUF's rope {name} is {value!r}, but a number above 0 is needed; "
                    "convert the model again."
                )
        magnitude = found.pop("magnitude")
        rope = Rope(
            rope_type="factors" if factors else GGUF_KINDS[rope_type],
            factors=factors or (),
            **found,
        )
        if magnitude == 1.0:
            return rope
        return replace(rope, attention_factor=rope.yarn_magnitude * magnitude)


def as_llama3(rope: Rope, head_dim: int) -> Rope | None:
    """The scaling of Llama 3 whose divisors a table of them (factors) is; None for another table.

    Between its ends 1 / divisor is a straight line over the plain frequencies, whose slope and
    offset tell all but the unit of `low_freq_factor`: here that is 1.
    """
    table, factor = np.array(rope.factors), max(rope.factors)
    if factor == 1:
        return replace(rope, rope_type="default", factors=())
    plain = Rope(rope.theta).frequencies(head_dim)
    smooth = (1 / table - 1 / factor) / (1 - 1 / factor)
    between = (smooth > NEAR) & (smooth < 1 - NEAR)
    tried = [(4.0, 8192)]
    if between.sum() > 1:
        slope, offset = np.polyfit(plain[between], smooth[between], 1)
        tried.append((1 - 1 / offset, 2 * math.pi * -slope / offset))
    elif between.any():
        tried.append((4.0, (2 * math.pi * (3 * smooth + 1) / plain)[between].item()))
    for high, context in tried:
        found = Rope(rope.theta, "llama3", factor, round(context), 1.0, round(float(high), 3))
        if np.allclose(found.divisors(head_dim), table, rtol=NEAR / 10, atol=0):
            return found
    return None


NEAR = 1e-4
"""How near a divisor must be to an end of the line to count as on it."""

GGUF_KINDS = {"none": "default", "linear": "linear", "yarn": "yarn"}
"""GGUF's name of a scaling -> ours."""

GGUF_KEYS: dict[str, tuple[str, Any]] = {
    "theta": ("rope.freq_base", 10000.0),
    "factor": ("rope.scaling.factor", 1.0),
    "original_context": ("rope.scaling.original_context_length", 0),
    "magnitude": ("rope.scaling.attn_factor", 1.0),
}
"""Field of Rope -> GGUF key and what readers take without it; `magnitude` is a factor on yarn's.

Without the ends of yarn's ramp, which llama.cpp does not read in any family that is known here.
"""
