"""How artifacts are judged: what a user may set, and the text that is read for it."""

from dataclasses import dataclass, fields
from pathlib import Path

import calib_data
from calib_data import Part, Windows
from quantize.checkpoint import Checkpoint
from quantize.plan import Plan, check_limits, window_length
from quantize.report.original import check_reference
from runtime.errors import InputError

SHORTEST_WINDOW = 16
"""Tokens."""
MOST_WINDOWS = 64
"""Of a text that has more, when no number was asked for."""


@dataclass(frozen=True)
class Settings:
    """The part of a Plan that decides how artifacts are judged. Raises as `check_limits` does."""

    eval_data: str = Plan.eval_data
    eval_rows: int = Plan.eval_rows
    eval_length: int | None = Plan.eval_length
    max_kl: float | None = Plan.max_kl
    min_top1: float | None = Plan.min_top1
    max_ppl_ratio: float | None = Plan.max_ppl_ratio
    max_image_kl: float | None = Plan.max_image_kl
    max_kl_p99: float | None = Plan.max_kl_p99
    max_kl_p999: float | None = Plan.max_kl_p999
    max_flipped: float | None = Plan.max_flipped
    max_kl_increase: float | None = Plan.max_kl_increase
    min_rank: float | None = Plan.min_rank
    baseline: Path | None = Plan.baseline
    adapter: tuple[str, ...] = Plan.adapter
    """What is merged into the original."""
    device: str = Plan.device
    calibration: str | None = None
    """What the artifact was calibrated with, where that is known."""
    reference: str | None = None
    """The backend that runs the original; None = one of ours."""
    kv: str | None = None
    """How its keys and values are kept; None = float32, where the engine lets us choose."""

    def __post_init__(self) -> None:
        check_limits(self)
        check_reference(self.reference)

    @property
    def part(self) -> Part:
        """A file is judged on whole, unless calibration took its share of the same file."""
        own = calib_data.is_file(self.eval_data) and self.eval_data != self.calibration
        return "all" if own else "heldout"

    @staticmethod
    def of(plan: Plan) -> "Settings":
        """The fields that a plan has too."""
        names = {field.name for field in fields(Settings)} & {field.name for field in fields(plan)}
        return Settings(**{name: getattr(plan, name) for name in names})


def held_out(settings: Settings, checkpoint: Checkpoint, context: int) -> Windows:
    """Windows of text that calibration with the same source never sees; see `prepare`."""
    length = window_length(settings.eval_length, context)
    own = context == checkpoint.arch.context
    whose = "the model's" if own else "an artifact's"
    if context < SHORTEST_WINDOW:
        longer = "" if own else ", or write an ONNX folder alone"
        raise InputError(
            f"artifacts are judged on windows of at least {SHORTEST_WINDOW} tokens, and {whose} "
            f"context is {context}: quantize without judging (--no-check){longer}."
        )
    if not SHORTEST_WINDOW <= length <= context:
        raise InputError(
            f"--eval-length must be between {SHORTEST_WINDOW} and {whose} context of {context}, "
            f"not {length}."
        )

    def load(rows: int) -> Windows:
        return calib_data.load(
            settings.eval_data, checkpoint.tokenizer, rows, length, part=settings.part
        )

    windows = load(settings.eval_rows)
    return load(MOST_WINDOWS) if not settings.eval_rows and windows.rows > MOST_WINDOWS else windows
