"""What one layer costs on its way through the walk (stream.py): bytes and operations."""

import math

from quantize.calibration.stream import TOKENS
from quantize.calibration.streamed import block_bytes
from quantize.run.cost import FLOAT
from runtime.archs import LayerSpec
from runtime.tensor import Shape


def matrices(spec: LayerSpec) -> list[Shape]:
    """Shapes of the matrices that a layer multiplies a token with: those of top_k experts."""
    used = spec.mixture.top_k if spec.mixture else 0
    found: list[Shape] = []
    for linear in spec.linears.values():
        found += [linear.shape[-2:]] * (used if linear.experts else 1)
    return found


def read_width(spec: LayerSpec) -> int:
    """Channels that a token's linears read, each input once."""
    used = spec.mixture.top_k if spec.mixture else 0
    widths = {g.stem: g.width * (1 if g.expert is None else used) for g in spec.groups}
    return sum(widths.values())


def layer_bytes(spec: LayerSpec) -> int:
    """Bytes of a layer that is ready to compute."""
    return FLOAT * sum(map(math.prod, spec.shapes.values()))


def streamed_bytes(spec: LayerSpec) -> int:
    """The same where experts are streamed: one of them is there, and as it is stored."""
    matrices = [shape[-2:] for shape in spec.shapes.values() if len(shape) > 2]
    rest = [shape for shape in spec.shapes.values() if len(shape) < 3]
    return FLOAT * (sum(map(math.prod, rest)) + 2 * sum(map(math.prod, matrices)))


def one_by_one_bytes(spec: LayerSpec) -> int:
    """The same where linears are streamed, too: the largest is there, and some rows of it twice."""
    matrices = [shape[-2:] for shape in spec.shapes.values() if len(shape) > 1]
    vectors = sum(math.prod(shape) for shape in spec.shapes.values() if len(shape) == 1)
    return FLOAT * (vectors + max(map(math.prod, matrices))) + max(map(block_bytes, matrices))


def at_once(rows: int, length: int, tokens: int = TOKENS) -> int:
    """Tokens of windows (rows, length) that go through a layer at a time."""
    return min(rows, max(1, tokens // length)) * length


def activation_bytes(spec: LayerSpec, tokens: int) -> int:
    """Bytes while tokens go forward: of the widest linears its gate, its product with the
    activation's, and what both are made of."""
    widest = max(math.prod(shape[:-1]) for shape in matrices(spec))
    return FLOAT * tokens * 4 * widest


def backward_bytes(spec: LayerSpec, tokens: int) -> int:
    """Bytes while tokens go backward: what the layer computed, gradients, and their squares."""
    outputs = sum(math.prod(shape[:-1]) for shape in matrices(spec))
    return FLOAT * tokens * (4 * outputs + 2 * read_width(spec))


def forward_flops(spec: LayerSpec, tokens: int) -> float:
    """Operations of a layer's products."""
    return 2.0 * tokens * sum(map(math.prod, matrices(spec)))


BACKWARD = 2
"""Times the products of a forward: the layer is computed again, and then its gradient."""
