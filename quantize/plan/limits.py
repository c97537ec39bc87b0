"""What the numbers of a plan may be, and the gates that there are."""

from math import inf

from quantize.plan.values import MOST
from runtime.errors import InputError

OF_TOKENS = (
    "max_kl",
    "max_kl_p99",
    "max_kl_p999",
    "max_kl_increase",
    "min_top1",
    "max_flipped",
    "max_ppl_ratio",
    "max_image_kl",
    "baseline",
)
"""Gates on the predictions of next tokens."""
OF_SCORES = ("min_rank",)
"""Gates on scores."""

COUNT = 2**31 - 1
"""The greatest number of anything that is counted."""
LIMITS = (
    ("rows", 1, COUNT),
    ("length", 16, COUNT),
    ("damp", 1e-9, 1),
    ("max_ram", 0, MOST / 2**30),
    ("eval_rows", 0, COUNT),
    ("eval_length", 16, COUNT),
    ("seed", 0, 2**63 - 1),
    ("target_size", 1, MOST),
    ("target_bpw", 0.1, 32),
    ("max_kl", 0, inf),
    ("min_top1", 0, 1),
    ("max_ppl_ratio", 0, inf),
    ("max_image_kl", 0, inf),
    ("max_kl_p99", 0, inf),
    ("max_kl_p999", 0, inf),
    ("max_flipped", 0, 1),
    ("max_kl_increase", 0, inf),
    ("min_rank", -1, 1),
)
"""Least and greatest value of a Plan's numbers."""


def check_limits(settings: object) -> None:
    """Raise InputError for a number of a Plan, or of what shares its fields, out of LIMITS, and for
    an increase of nothing."""
    for name, least, most in LIMITS:
        value = getattr(settings, name, None)
        if value is not None and not (least <= value <= most and abs(value) < inf):
            told = most < 100 or most < value  # where it says something
            bounds = f"at least {least:g}" + (f" and at most {most:.10g}" if told else "")
            raise InputError(f"{name} must be {bounds}, not {value}.")
    increase = getattr(settings, "max_kl_increase", None)
    if increase is not None and getattr(settings, "baseline", None) is None:
        raise InputError(
            "--max-kl-increase is measured from an earlier report; add --baseline report.json, or "
            "use --max-kl."
        )
