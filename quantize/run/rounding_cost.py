"""What rounding a weight or a layer takes (rounding.py): bytes, operations and time."""

import math

from quantize.calibration.layer_cost import streamed_bytes
from quantize.methods.rtn import rtn
from quantize.plan import Assignment
from quantize.run.cost import FLOAT, Cost
from quantize.run.pieces import CHUNK
from quantize.run.recipe import Recipe
from runtime.archs import LayerSpec
from runtime.tensor import Shape, rows_and_cols

ROUNDED, DESCENDED = 3, 9
"""Copies of a chunk in float32 or int32 that a method makes, and that descent does."""
SEARCH = 800
"""Operations of the search for a grid, a weight."""
COLUMN_SECONDS = {"cpu": 1e-5}
"""Time of one column of error feedback beside its products: a loop in C++."""
STARTED_SECONDS = 4e-4
"""The same on other devices: most of it is starting small operations."""


def factors(recipe: Recipe) -> bool:
    """Whether errors are fed back by a factored Hessian."""
    return recipe.method.factor is not None and recipe.method.round is not rtn


def in_place(recipe: Recipe, members: tuple[Assignment, ...]) -> bool:
    """Whether a factor may take the place of its Hessian in a streamed layer: nobody needs it
    afterwards."""
    ordered = any(qtype.ordered for member in members for qtype in member.types.values())
    return factors(recipe) and len(members) == 1 and not recipe.descent_iterations and not ordered


def chunk_bytes(shape: Shape, recipe: Recipe, factored: bool) -> int:
    """Bytes that `quantize_weight` takes for the rows that it rounds at a time."""
    rows, cols = rows_and_cols(shape)
    copies = DESCENDED if factored and recipe.descent_iterations else ROUNDED
    return FLOAT * copies * min(rows * cols, max(CHUNK, cols))


def weight_cost(shape: Shape, recipe: Recipe, factored: bool, device: str) -> Cost:
    """Of rounding one weight; memory without what it becomes."""
    rows, cols = rows_and_cols(shape)
    flops, turns = float(SEARCH * rows * cols), 0
    if factored:
        # errors of all columns before go to those to come, half of a product; a pass of descent
        # starts with a whole one and goes on with a half
        turns = 1 + recipe.descent_iterations
        flops += (1 + 3 * recipe.descent_iterations) * rows * cols**2
    column = COLUMN_SECONDS.get(device, STARTED_SECONDS)
    chunks = -(-rows * cols // max(CHUNK, cols))
    return Cost(
        memory=chunk_bytes(shape, recipe, factored),
        flops=flops,
        seconds=turns * cols * chunks * column,
    )


def layer_cost(spec: LayerSpec, recipe: Recipe, device: str, ordered: bool = False) -> Cost:
    """Of `rewrite_layer` and `quantize_layer`, on top of the layer and of its Hessians.

    The rounded layer stays; beside it come the factor of the widest Hessian and the work on some
    rows of the largest linear that reads it. `ordered`: whether some linear is in act-order.
    """
    factored = factors(recipe)
    work, flops, seconds = 0, 0.0, 0.0
    for group in spec.groups:
        # the factor, and H with its rows and then its columns in order
        root = FLOAT * group.width**2 * (1 + 2 * ordered) if factored else 0
        for linear in group.linears:
            shape = spec.linears[linear].shape[-2:]  # of an expert, one of many
            rounding = weight_cost(shape, recipe, factored, device)
            work = max(work, root + rounding.memory)
            flops += rounding.flops + 4 * math.prod(shape) * group.width
            seconds += rounding.seconds
        flops += group.width**3 / 3
    scaled = 0
    if recipe.method.scales or recipe.rewrites:
        # rewrites fold scales into norms; a method's go into linears as well
        folds = [g for g in spec.groups if g.fold]
        folded = [g for g in folds if recipe.method.scales or g.fold not in spec.linears]
        weights = sum(math.prod(spec.linears[name].shape) for g in folded for name in g.linears)
        scaled = FLOAT * (weights + sum(group.width**2 for group in folded))
        flops += sum(group.width**3 / 3 for group in folded)
    return Cost(memory=scaled + streamed_bytes(spec) + work, flops=flops, seconds=seconds)
