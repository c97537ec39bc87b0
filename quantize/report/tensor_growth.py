"""The rounding error of each tensor against that of the same tensor in an earlier report."""

import numpy as np

from quantize.report.checks import Check, limited, not_measured
from quantize.report.scan import TensorFact
from runtime.tensor import is_matrix

SAME = 1e-9
"""Growth of an error that is none. Where the codes are the same, both figures are the same sums in
float64, of which another numpy may only change the order; one changed code of a large tensor makes
more."""
REMADE = 0.02
"""Where the codes were made anew (see `growth_limit`): as much as KL may lose on other machines."""
TIMES = 20.0
"""How much more than the typical weight one may move then. On the bundled model it is 5 times with
the kernels and libraries of the simplest processor instead of AVX2's, and 8 times with half as much
more calibration text, where the typical weight moves by 0.2 to 0.8%."""
ANOTHER = 0.03
"""Typical change that is another recipe's. An error is then no measure of damage: making up for
earlier layers moves a weight far from the original, and lowers the KL by it."""
FLOOR = 1e-13
"""Relative squared error that float32 makes of equal weights: (3e-7)^2."""
NAMED = 5
"""Tensors named one by one."""


def tensor_check(now: tuple[TensorFact, ...], before: tuple[TensorFact, ...]) -> Check:
    """Whether a tensor is further from the original than the same tensor in the same type was."""
    earlier = {fact.name: fact for fact in before}
    growth = {
        fact.name: max(fact.error, FLOOR) / max(then.error, FLOOR)
        for fact in now
        if (then := earlier.get(fact.name)) and fact.type == then.type
        if fact.error is not None and then.error is not None
    }
    if not growth:
        return not_measured("baseline tensors", "no tensor has a type and an error in both reports")
    weights = {fact.name for fact in now if is_matrix(fact.shape)}
    ratios = np.array([growth[name] for name in growth if name in weights])
    typical = float(np.expm1(np.median(np.abs(np.log(ratios))))) if len(ratios) else 0.0
    if typical > ANOTHER:
        why = (
            f"the rounding error of most tensors is {typical:.0%} off the baseline's, which is "
            "another recipe's, so they were not compared one by one"
        )
        return not_measured("baseline tensors", why)
    limit = 1 + growth_limit(ratios, typical)
    # a norm made anew takes up other scales: those are no error (exact/moved.py finds one that is)
    compared = growth if limit == 1 + SAME else {n: growth[n] for n in growth if n in weights}
    grown = sorted((n for n in compared if growth[n] > limit), key=lambda name: -growth[name])
    told = [
        f"{name} has {growth[name]:.8g} times the rounding error that it has in the baseline, in "
        "the same type"
        for name in grown[:NAMED]
    ]
    if len(grown) > NAMED:
        told.append(f"{len(grown) - NAMED:,} more tensors have a greater rounding error than there")
    return limited("baseline tensors", bool(grown), told, max(compared.values()), limit)


def growth_limit(ratios: np.ndarray, typical: float) -> float:
    """What an error may grow by, as a share of it; `ratios` (n,) are the growth of the weights.

    The same machine with as many threads makes the same codes of the same recipe, and then every
    error is the same to the last bits: what grew was damaged. Another machine adds in another
    order, so that some codes come out otherwise, and so does a small change of the recipe. That
    shows: the errors of most tensors moved, or one of them fell, which no damage does. The
    `typical` change, the median, then says how far rounding anew moves an error.
    """
    if typical <= SAME and (ratios >= 1 - SAME).all():
        return SAME
    return max(REMADE, TIMES * typical)


def changed_types(now: tuple[TensorFact, ...], before: tuple[TensorFact, ...]) -> tuple[str, ...]:
    """A sentence on tensors that are stored in another type than in the baseline."""
    earlier = {fact.name: fact.type for fact in before}
    changed = [fact for fact in now if earlier.get(fact.name, fact.type) != fact.type]
    if not changed:
        return ()
    shown = ", ".join(f"{f.name} ({earlier[f.name]} to {f.type})" for f in changed[:NAMED])
    more = f" and {len(changed) - NAMED:,} more" if len(changed) > NAMED else ""
    return (f"of another type than in the baseline, so not compared with it: {shown}{more}",)
