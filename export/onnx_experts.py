"""A mixture of experts in ONNX, in plain operators.

    router      scores -> Softmax -> TopK: shares and experts of each token
    sort        the N * top_k pairs of token and expert, by expert; Split gives each expert its rows
    experts     gate and up of each, the activation of all at once, down of each
    set back    each token's top_k results, times their shares, added up

An expert that nobody chose gets no rows, and its weights are not read. onnxruntime's QMoE would be
one node in place of these; docs/formats.md says why it is not.
"""

import numpy as np
from onnx import TensorProto

from export.onnx_nodes import Graph, gated, linear, mlp
from runtime.archs import GatedMLP, Linear, MoE


def mixture(graph: Graph, blk: str, op: MoE, x: str) -> str:
    """Of x (B, T, D) the same shape."""
    name, width, experts = f"{blk}.moe", op.router.inputs, op.router.outputs
    rows = graph.constant(f"moe.rows.{width}", [-1, width], np.int64)
    flat = graph.op("Reshape", [x, rows], f"{name}.flat")  # (N, D)
    shares, chosen = _route(graph, blk, op, flat)
    pairs = graph.op("Reshape", [chosen, _all(graph)], f"{name}.pairs")  # (N * top_k,)
    order = _sorted(graph, pairs, f"{name}.order")
    top_k = graph.constant(f"moe.top_k.{op.top_k}", op.top_k, np.int64)
    token = graph.op("Div", [order, top_k], f"{name}.token")
    given = graph.op("Gather", [flat, token], f"{name}.given", axis=0)  # by expert
    made = _experts(graph, blk, op.experts, given, _counts(graph, pairs, experts, name))
    place = _sorted(graph, order, f"{name}.place")
    back = graph.op("Gather", [made, place], f"{name}.back", axis=0)  # by token
    each = graph.constant(f"moe.each.{op.top_k}.{width}", [-1, op.top_k, width], np.int64)
    back = graph.op("Reshape", [back, each], f"{name}.each")  # (N, top_k, D)
    last = graph.constant("moe.last", [-1], np.int64)
    shares = graph.op("Unsqueeze", [shares, last], f"{name}.shares")
    weighed = graph.op("Mul", [back, shares], f"{name}.weighed")
    ranks = graph.constant("moe.ranks", [1], np.int64)
    out = graph.op("ReduceSum", [weighed, ranks], f"{name}.sum", keepdims=0)  # (N, D)
    if op.shared:
        out = graph.op("Add", [out, _shared(graph, blk, op, flat)], f"{name}.both")
    return graph.op("Reshape", [out, graph.op("Shape", [x], f"{name}.shape")], name)


def _all(graph: Graph) -> str:
    """The shape of a vector."""
    return graph.constant("moe.all", [-1], np.int64)


def _route(graph: Graph, blk: str, op: MoE, flat: str) -> tuple[str, str]:
    """Shares and experts of each token, (N, top_k) both."""
    name = f"{blk}.moe.route"
    scores = linear(graph, f"{blk}.{op.router.name}", flat)
    shares = graph.op("Softmax", [scores], f"{name}.softmax", axis=-1)
    count = graph.constant(f"moe.count.{op.top_k}", [op.top_k], np.int64)
    best, chosen = _top(graph, shares, count, name, largest=1)
    if not op.normalized:
        return best, chosen
    last = graph.constant("moe.last", [-1], np.int64)
    total = graph.op("ReduceSum", [best, last], f"{name}.total", keepdims=1)
    return graph.op("Div", [best, total], f"{name}.normalized"), chosen


def _top(graph: Graph, x: str, count: str, name: str, largest: int) -> tuple[str, str]:
    """The first values along the last axis, and where they stand; of equal ones the first."""
    outputs = [f"{name}.values", f"{name}.indices"]
    graph.several("TopK", [x, count], outputs, axis=-1, largest=largest, sorted=1)
    return outputs[0], outputs[1]


def _sorted(graph: Graph, x: str, name: str) -> str:
    """Where the values of a vector stand, in rising order; equal ones in theirs."""
    count = graph.op("Shape", [x], f"{name}.count")
    return _top(graph, x, count, name, largest=0)[1]


def _counts(graph: Graph, pairs: str, experts: int, name: str) -> str:
    """How many of `pairs` each expert has: (experts,)."""
    all_of = graph.constant(f"moe.experts.{experts}", np.arange(experts)[:, None], np.int64)
    own = graph.op("Equal", [all_of, pairs], f"{name}.own")  # (experts, pairs)
    ones = graph.op("Cast", [own], f"{name}.ones", to=TensorProto.INT64)
    last = graph.constant("moe.last", [-1], np.int64)
    return graph.op("ReduceSum", [ones, last], f"{name}.counts", keepdims=0)


def _experts(graph: Graph, blk: str, op: GatedMLP, given: str, counts: str) -> str:
    """Rows by expert, `counts` of each, through theirs: (N * top_k, D)."""

    pieces = _split(graph, op, given, counts)
    gate, up = (_each(graph, blk, part, pieces) for part in (op.gate, op.up))
    inner = _split(graph, op, gated(graph, op, gate, up), counts)
    return _each(graph, blk, op.down, inner)


def _split(graph: Graph, op: GatedMLP, x: str, counts: str) -> list[str]:
    """The rows of each expert."""
    pieces = [f"{x}.{expert}" for expert in range(op.gate.experts or 0)]
    return graph.several("Split", [x, counts], pieces, axis=0)


def _each(graph: Graph, blk: str, part: Linear, pieces: list[str]) -> str:
    """Each expert's rows through its matrix of a linear."""
    name = f"{blk}.{part.name}"
    made = [linear(graph, f"{name}.{expert}", x) for expert, x in enumerate(pieces)]
    return graph.op("Concat", made, name, axis=0)


def _shared(graph: Graph, blk: str, op: MoE, flat: str) -> str:
    """The expert for every token, times its own share: (N, D)."""
    assert op.shared
    out = mlp(graph, blk, op.shared, flat)
    if op.shared_gate is None:
        return out
    score = linear(graph, f"{blk}.{op.shared_gate.name}", flat)
    share = graph.op("Sigmoid", [score], f"{score}.share")
    return graph.op("Mul", [out, share], f"{out}.weighed")
