"""What Hessians take (hessian.py)."""

from quantize.run.cost import FLOAT
from runtime.archs import LayerSpec


def hessian_bytes(spec: LayerSpec) -> int:
    """Bytes of the Hessians of a layer, one for each expert."""
    return FLOAT * sum(group.width**2 for group in spec.groups)


def plain_hessian_bytes(spec: LayerSpec) -> int:
    """The same without those of experts."""
    return FLOAT * sum(group.width**2 for group in spec.groups if group.expert is None)


def hessian_flops(spec: LayerSpec, tokens: int) -> float:
    """Operations of their sums, of which one half is computed."""
    used = spec.mixture.top_k if spec.mixture else 0
    widths = {g.stem: g.width**2 * (1 if g.expert is None else used) for g in spec.groups}
    return float(tokens * sum(widths.values()))
