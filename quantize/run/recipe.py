"""How linears are rounded: a method and its settings."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import torch

from quantize.methods import HessianFactor, Method, SingularHessian
from runtime.errors import InputError

Spare = Callable[[torch.Tensor], Callable[[torch.Tensor], None]]
"""Keeps a copy of a Hessian elsewhere, and returns what writes it into its array again."""


@dataclass(frozen=True)
class Recipe:
    """How linears are rounded: a method and its settings."""

    method: Method
    _: KW_ONLY
    damp: float = 0.01
    allow_fallback: bool = False
    descent_iterations: int = 0
    """Passes of coordinate descent after rounding, where the method has factored a Hessian."""
    rewrites: tuple[str, ...] = ()
    """Function-preserving changes before rounding (quantize/rewrites), by name."""

    def factor(
        self, hessian: torch.Tensor | None, where: str, spare: Spare | None = None
    ) -> tuple[HessianFactor | None, str | None]:
        """The factor of an input group, and a note when damping grew or a fallback was taken.

        A Hessian of which only the diagonal (in,) is known is the importance as it stands. With
        `spare` the factor takes the Hessian's place.
        Raises EdgequantError naming the layer for a Hessian that stays singular, unless fallbacks
        are allowed.
        """
        if hessian is not None and hessian.ndim == 1:
            return HessianFactor(hessian), None
        if hessian is None or self.method.factor is None:
            return None, None
        try:
            more = (spare(hessian),) if spare else ()
            factor = self.method.factor(hessian, self.damp, *more)
        except SingularHessian:
            if self.allow_fallback:
                return None, f"{where}: singular Hessian, rounded to nearest (--allow-fallback)"
            raise InputError(
                f"{where}: the Hessian stays singular with any damping, so its inputs are zero or "
                "not finite; use other calibration text, or --allow-fallback to round to nearest."
            ) from None
        grown = factor.damp > self.damp
        return factor, f"{where}: damping grew to {factor.damp:g}" if grown else None
