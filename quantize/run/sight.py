"""The vision tower of an artifact: which type each of its linears has.

Rules count for them as for the language model's, by names like visual.blocks.0.attn.qkv.weight.
Without one they are stored as they are beside weights that are, else as the container says.
"""

from dataclasses import replace
from typing import Any

import export
from export.onnx_vision import linears, wide_tower
from export.sight import Sight
from quantize.plan import Assignment, narrow, ruled
from quantize.plan.assignment import TOWER
from quantize.run.job import Job
from runtime.quant_types import QUANT_TYPES, QuantType
from runtime.vision.vision import Vision


def beside(job: Job, assignment: Assignment) -> dict[str, Any]:
    """What `write` and `size` of a container take besides."""
    if not export.CONTAINERS[assignment.target.container].tower:
        return {}
    return {"sight": Sight(job.vision, types(job.vision, job, assignment)) if job.vision else None}


def types(vision: Vision, job: Job, assignment: Assignment) -> dict[str, QuantType]:
    """Of each linear: what was asked for, or the next best one whose blocks divide its rows."""
    container = export.CONTAINERS[assignment.target.container]
    asked = wanted(vision, job, assignment)
    columns = linears(wide_tower(vision.tower, {n: QUANT_TYPES[t] for n, t in asked.items()}))
    return {name: narrow(asked[name], cols, container) for name, cols in columns.items()}


def wanted(vision: Vision, job: Job, assignment: Assignment) -> dict[str, str]:
    """What was asked for, by a rule or by the other weights."""
    container = export.CONTAINERS[assignment.target.container]
    usual = container.widest if assignment.is_float else container.tower
    names = linears(vision.tower)
    return {name: ruled(f"{TOWER}{name}", job.rules, container) or usual for name in names}


def tower_told(job: Job, assignment: Assignment) -> Assignment:
    """With a sentence, if there is none yet, for linears of the tower whose rows did not fit."""
    if not (job.vision and export.CONTAINERS[assignment.target.container].tower):
        return assignment
    got, asked = types(job.vision, job, assignment), wanted(job.vision, job, assignment)
    other = [name for name, qtype in got.items() if qtype.name != asked[name]]
    if not other:
        return assignment
    first = other[0]
    sentence = (
        f"{len(other)} linears of the vision tower cannot be {asked[first]}, whose blocks do not "
        f"divide their rows, and became {got[first].name}; the first is {TOWER}{first}"
    )
    return replace(assignment, fallbacks=tuple(dict.fromkeys((*assignment.fallbacks, sentence))))
