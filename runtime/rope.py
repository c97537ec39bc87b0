"""Rotary position embedding: the frequencies of every scaling that Qwen2.5 and Llama use.

Follows Su et al. 2021; "llama3" is Llama 3.1's scaling, "yarn" is Peng et al. 2023 (Qwen2.5's long context).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.errors import EdgequantError


@dataclass(frozen=True)
class Rope:
    """How positions turn into angles."""

    theta: float = 10000.0
    kind: str = "default"
    """default, linear, llama3 or yarn."""
    factor: float = 1.0
    original_context: int = 0
    """Context the model was trained with, in tokens (llama3, yarn)."""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    """Factor on cos and sin; None = yarn's own 0.1 ln(factor) + 1, else 1."""

    @property
    def magnitude(self) -> float:
        """What cos and sin are multiplied by (yarn's mscale; 1 otherwise)."""
        if self.attention_factor is not None:
            return self.attention_factor
        return 0.1 * math.log(self.factor) + 1 if self.kind == "yarn" and self.factor > 1 else 1.0

    def frequencies(self, head_dim: int) -> np.ndarray:
        """Angle per position of each pair of channels: (head_dim / 2,) float64."""
        plain = self.theta ** -(np.arange(0, head_dim, 2) / head_dim)
        if self.kind == "linear":
            return np.asarray(plain / self.factor)
        if self.kind == "llama3":
            return np.asarray(plain / self._llama3_divisors(plain))
        if self.kind == "yarn":
            keep = self._yarn_kept(head_dim)
            return np.asarray(plain / self.factor * (1 - keep) + plain * keep)
        return np.asarray(plain)

    def divisors(self, head_dim: int) -> np.ndarray:
        """Plain frequency over scaled frequency: (head_dim / 2,) float32, GGUF's rope_freqs tensor."""
        plain = self.theta ** -(np.arange(0, head_dim, 2) / head_dim)
        return np.asarray(plain / self.frequencies(head_dim), np.float32)

    def _llama3_divisors(self, plain: np.ndarray) -> np.ndarray:
        """1 for short wavelengths, `factor` for long ones, a smooth passage between."""
        turns = self.original_context * plain / (2 * math.pi)
        smooth = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        smooth = np.clip(smooth, 0, 1)
        return np.asarray(1 / ((1 - smooth) / self.factor + smooth))

    def _yarn_kept(self, head_dim: int) -> np.ndarray:
        """How much of the plain frequency each pair keeps: 1 fast channels, 0 slow ones, a ramp between."""

        def channel(turns: float) -> float:
            return (head_dim * math.log(self.original_context / (turns * 2 * math.pi))) / (
                2 * math.log(self.theta)
            )

        low = max(math.floor(channel(self.beta_fast)), 0)
        high = min(math.ceil(channel(self.beta_slow)), head_dim - 1)
        ramp = (np.arange(head_dim // 2) - low) / max(high - low, 0.001)
        return np.asarray(1 - np.clip(ramp, 0, 1))

    def tables(self, start: int, stop: int, head_dim: int) -> tuple[np.ndarray, np.ndarray]:
        """cos and sin of positions start..stop: two (stop - start, head_dim / 2) float32."""
        # float32 like every reference implementation: at position 30,000 the rounding shows in the logits
        frequencies = self.frequencies(head_dim).astype(np.float32)
        angles = np.arange(start, stop, dtype=np.float32)[:, None] * frequencies
        scale = np.float32(self.magnitude)
        return np.cos(angles) * scale, np.sin(angles) * scale

    @staticmethod
    def from_config(config: dict[str, Any]) -> "Rope":
        """Read `rope_theta`/`rope_scaling` or the newer `rope_parameters` of a HF config.

        Raises EdgequantError for a scaling this runtime does not compute.
        """
        scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
        kind = scaling.get("rope_type") or scaling.get("type") or "default"
        if kind not in ("default", "linear", "llama3", "yarn"):
            raise EdgequantError(
                f"config.json asks for rope scaling {kind!r}; supported: default, linear, llama3, yarn."
            )
        context = scaling.get("original_max_position_embeddings")
        optional = (
            "low_freq_factor",
            "high_freq_factor",
            "beta_fast",
            "beta_slow",
            "attention_factor",
        )
        return Rope(
            theta=float(scaling.get("rope_theta") or config.get("rope_theta") or 10000.0),
            kind=kind,
            factor=float(scaling.get("factor") or 1.0),
            original_context=int(context or config.get("max_position_embeddings") or 0),
            **{key: float(scaling[key]) for key in optional if scaling.get(key) is not None},
        )
