"""What a plan cannot ask of a model that scores texts, and what only such a model has."""

from typing import Any

from quantize.plan.effort import EFFORTS
from quantize.plan.limits import OF_SCORES, OF_TOKENS
from quantize.plan.plan import Plan
from runtime.archs import Arch
from runtime.errors import InputError


def check_scores(plan: Plan, arch: Arch) -> None:
    """Raise InputError for a gate of the other kind of model and, where it scores texts, for what
    is made from predictions of next tokens."""
    check_gates(plan, arch)
    if arch.score_head is None:
        return
    if automatic := [target.label for target in plan.targets if target.automatic]:
        raise InputError(
            f"--to {automatic[0]} chooses types by predictions of next tokens, and this model "
            "scores texts; take a preset such as onnx:int4, and --rule."
        )
    if EFFORTS[plan.effort].steps:
        raise InputError(
            f"--effort {plan.effort} tunes on predictions of next tokens, and this model scores "
            "texts; use --effort medium."
        )
    if plan.calibration == "self":
        raise InputError(
            "--calibration self is text that the model writes, and this model scores texts; use "
            "builtin or a file."
        )


def check_gates(settings: Any, arch: Arch) -> None:
    """Raise InputError for a gate that measures what the model does not compute."""
    wrong = OF_TOKENS if arch.score_head else OF_SCORES
    given = [name for name in wrong if getattr(settings, name) is not None]
    if given and arch.score_head:
        raise InputError(
            f"{flag(given[0])} measures predictions of next tokens, and this model scores texts; "
            "use --min-rank."
        )
    if given:
        raise InputError(
            f"{flag(given[0])} measures scores of texts, and this model predicts tokens; use "
            "--max-kl."
        )


def flag(name: str) -> str:
    """A field as its flag."""
    return f"--{name.replace('_', '-')}"
