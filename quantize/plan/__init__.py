"""What a run will do, and which type each tensor gets by it.

    plan.py        Plan: one frozen configuration, its checks, and what of it decides the bytes
    target.py      --to CONTAINER:PRESET
    limits.py      what its numbers may be, and the gates
    scores.py      what it cannot ask of a model that scores texts
    rule.py        --rule REGEX=TYPE
    effort.py      settings of each effort level
    values.py      plan files and sizes, as a user writes them
    assignment.py  the type of every tensor: preset, rules, and what fits a row

The words of the command line stand alone, `plan.py` is made of them, `assignment.py` of both.
"""

from quantize.plan.assignment import (
    Allocation,
    Assignment,
    assign,
    check_rules,
    fallback_sentences,
    matrix_widths,
    narrow,
    ruled,
)
from quantize.plan.effort import EFFORTS, LEAST_WINDOWS, Effort
from quantize.plan.limits import check_limits
from quantize.plan.plan import Plan, window_length
from quantize.plan.rule import Rule
from quantize.plan.scores import check_gates, check_scores
from quantize.plan.target import Target

__all__ = [
    "EFFORTS",
    "LEAST_WINDOWS",
    "Allocation",
    "Assignment",
    "Effort",
    "Plan",
    "Rule",
    "Target",
    "assign",
    "check_gates",
    "check_limits",
    "check_rules",
    "check_scores",
    "fallback_sentences",
    "matrix_widths",
    "narrow",
    "ruled",
    "window_length",
]
