"""The nodes of each op of a layer, in com.microsoft operators where the standard has none.

Every function adds nodes to a graph and returns the name of the value they make.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from runtime.archs import Arch, Attention, GatedMLP, Norm, Residual
from runtime.onnx_file import matrices
from runtime.quant_types import QuantType
from runtime.quant_types.onnx_int import OnnxInt
from runtime.tensor import Shape

MICROSOFT = "com.microsoft"

EMBEDDING = "token_embd.weight"

TIED_BLOCKS = f"{EMBEDDING}.blocks"
"""The codes of a tied embedding as the head reads them: the same bytes under another shape.

GatherBlockQuantized wants (V, codes' bytes), MatMulNBits (V, blocks, codes' bytes). A Reshape
between them would make onnxruntime hold another copy of the codes in memory.
"""


@dataclass
class Nodes:
    """The nodes so far; `layouts` says how each weight is stored. Values go by their names."""

    shapes: Mapping[str, Shape]
    """Of every weight."""
    layouts: Mapping[str, QuantType]
    accuracy_level: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.matrices: dict[str, tuple[QuantType, Shape]] = {
            part: (self.layouts[name], shape)
            for name, whole in self.shapes.items()
            for part, shape in matrices(name, whole).items()
        }
        """Type and shape of each weight, and of each expert's part of one."""

    def op(
        self, op_type: str, inputs: list[str], out: str, domain: str = "", **attributes: Any
    ) -> str:
        """Add a node named after its one output, which is returned."""
        node = helper.make_node(op_type, inputs, [out], name=out, domain=domain, **attributes)
        self.nodes.append(node)
        return out

    def several(
        self, op_type: str, inputs: list[str], outs: list[str], **attributes: Any
    ) -> list[str]:
        """Add a standard node of several outputs, which are returned."""
        self.nodes.append(helper.make_node(op_type, inputs, outs, name=outs[0], **attributes))
        return outs

    def constant(self, name: str, values: Any, dtype: type) -> str:
        """A small constant kept inside the .onnx file."""
        self.constants[name] = numpy_helper.from_array(np.asarray(values, dtype), name)
        return name


class Graph(Nodes):
    """The nodes of a language model."""

    def __init__(
        self, arch: Arch, layouts: Mapping[str, QuantType], accuracy_level: int, sees: bool = False
    ) -> None:
        """`sees`: embeddings come in, some of them of images, and places on three axes."""
        super().__init__(arch.shapes(), layouts, accuracy_level)
        self.arch, self.sees = arch, sees

    @property
    def cached(self) -> bool:
        """Whether keys and values come in and go out: texts that are scored are read whole."""
        return self.arch.score_head is None


def stored_names(name: str, qtype: QuantType) -> list[str]:
    """Initializers of one weight: itself, or B, scales and (unless symmetric) zero points."""
    if not isinstance(qtype, OnnxInt):
        return [name]
    return [f"{name}.q", qtype.scale_of(name)] + ([] if qtype.symmetric else [f"{name}.zero"])


def _operands(graph: Nodes, name: str, qtype: OnnxInt) -> list[str]:
    """Codes, scales and zero points as operators read them: scales in float32.

    onnxruntime computes a cast of what is stored when it opens the model: the file is smaller,
    nothing else changes.
    """
    codes, scales, *zeros = stored_names(name, qtype)
    if qtype.half:
        cast = f"{name}.scale"
        if not any(node.name == cast for node in graph.nodes):  # a tied table has two readers
            graph.op("Cast", [scales], cast, to=onnx.TensorProto.FLOAT)
        scales = cast
    return [codes, scales, *zeros]


def embed(graph: Graph) -> str:
    """What the first layer reads: (B, T, D)."""
    rows, factor = _rows(graph), graph.arch.embedding_scale
    if factor == 1.0:
        return rows
    scale = graph.constant("token_embd.scale", factor, np.float32)
    return graph.op("Mul", [rows, scale], "token_embd.scaled")


def _rows(graph: Graph) -> str:
    """Rows of the embedding: (B, T, D)."""
    name, qtype = EMBEDDING, graph.layouts[EMBEDDING]
    if not isinstance(qtype, OnnxInt):
        return graph.op("Gather", [name, "input_ids"], "token_embd", axis=0)
    stored = _operands(graph, name, qtype)
    facts = {"bits": qtype.code_bits, "block_size": qtype.size}
    return graph.op(
        "GatherBlockQuantized",
        [stored[0], "input_ids", *stored[1:]],
        "token_embd",
        MICROSOFT,
        gather_axis=0,
        quantize_axis=1,
        **facts,
    )


def cache_names(layer: int, side: str) -> tuple[str, str]:
    return f"past_key_values.{layer}.{side}", f"present.{layer}.{side}"


def norm(graph: Nodes, op: Norm, name: str, x: str, out: str) -> str:
    """RMS norm in standard operators, which onnxruntime fuses; most come with a skip."""
    # SimplifiedLayerNormalization is no operator of the standard: onnx's checker refuses it
    axis = graph.constant(f"{out}.axis", [-1], np.int64)
    eps = graph.constant(f"{out}.eps", op.eps, np.float32)
    two = graph.constant(f"{out}.two", 2.0, np.float32)
    square = graph.op("Pow", [x, two], f"{out}.square")
    mean = graph.op("ReduceMean", [square, axis], f"{out}.mean", keepdims=1)
    safe = graph.op("Add", [mean, eps], f"{out}.safe")
    root = graph.op("Sqrt", [safe], f"{out}.root")
    unit = graph.op("Div", [x, root], f"{out}.unit")
    return graph.op("Mul", [unit, f"{name}.weight"], out)


def skip_norm(graph: Graph, op: Norm, name: str, parts: list[str], last: bool) -> tuple[str, str]:
    """The norm of the sum of two parts, and the sum; the `last` norm's sum is read by nobody."""
    summed = f"{name}.residual"
    node = helper.make_node(
        "SkipSimplifiedLayerNormalization",
        [*parts, f"{name}.weight"],
        [name] if last else [name, "", "", summed],
        name=name,
        domain=MICROSOFT,
        epsilon=op.eps,
    )
    graph.nodes.append(node)
    return name, summed


def scaled(graph: Graph, blk: str, op: Residual, y: str, name: str) -> str:
    """What a residual adds to the stream."""
    if op.post_norm:
        own = f"{blk}.{op.post_norm.name}"
        y = norm(graph, op.post_norm, own, y, own)
    if op.multiplier == 1.0:
        return y
    factor = graph.constant(f"{name}.multiplier", op.multiplier, np.float32)
    return graph.op("Mul", [y, factor], f"{name}.scaled")


def linear(graph: Nodes, part: str, x: str, out: str = "") -> str:
    """x through a linear and its bias; the value is called `part` unless `out` is given."""
    name, out = f"{part}.weight", out or part
    qtype, shape = graph.matrices[name]
    bias = [f"{part}.bias"] if f"{part}.bias" in graph.layouts else []
    if not isinstance(qtype, OnnxInt):
        turned = graph.op("Transpose", [name], f"{out}.turned", perm=[1, 0])
        if not bias:
            return graph.op("MatMul", [x, turned], out)
        return graph.op("Add", [graph.op("MatMul", [x, turned], f"{out}.product"), *bias], out)
    rows, cols = shape
    stored = _operands(graph, name, qtype)
    if qtype.ordered:  # act-order: the input's channels as the weight's columns are packed
        x = graph.op("Gather", [x, f"{name}.order"], f"{out}.ordered", axis=-1)
    inputs = [x, TIED_BLOCKS if name == EMBEDDING else stored[0], *stored[1:]]
    if bias:
        inputs += [""] * (5 - len(inputs)) + bias
    facts = {"K": cols, "N": rows, "bits": qtype.code_bits, "block_size": qtype.size}
    return graph.op(
        "MatMulNBits", inputs, out, MICROSOFT, accuracy_level=graph.accuracy_level, **facts
    )


def head(graph: Graph, x: str, out: str) -> str:
    """Normed states (B, T, D) through the head: logits, or what a head that scores writes."""
    scores = graph.arch.score_head
    if scores is None:
        return linear(graph, graph.arch.head.removesuffix(".weight"), x, out)
    *before, last = scores.linears
    for part in before:
        x = graph.op("Relu", [linear(graph, part.name, x)], f"{part.name}.relu")
    return linear(graph, last.name, x, out)


def _head_norm(graph: Graph, op: Norm, name: str, x: str, heads: int) -> str:
    """Norm of each head: x (B, T, heads * C) -> the same shape."""
    split = graph.constant(f"heads.{heads}.{op.width}", [0, 0, heads, op.width], np.int64)
    joined = graph.constant(f"joined.{heads * op.width}", [0, 0, heads * op.width], np.int64)
    x = graph.op("Reshape", [x, split], f"{name}.heads")
    return graph.op("Reshape", [norm(graph, op, name, x, name), joined], f"{name}.joined")


def attention(
    graph: Graph, index: int, op: Attention, normed: str, lengths: list[str], tables: list[str]
) -> str:
    """What attn_output reads: (B, T, H * C). The cache holds rotated keys.

    `lengths` are seqlens_k and total_sequence_length; `tables` are cos and sin of all positions,
    where there is a rope, or what `rotated` takes.
    """
    blk = f"blk.{index}"
    q, k, v = (linear(graph, f"{blk}.{part.name}", normed) for part in (op.q, op.k, op.v))
    if op.q_norm:
        q = _head_norm(graph, op.q_norm, f"{blk}.{op.q_norm.name}", q, op.heads)
    if op.k_norm:
        k = _head_norm(graph, op.k_norm, f"{blk}.{op.k_norm.name}", k, op.kv_heads)
    names = [cache_names(index, side) for side in ("key", "value")] if graph.cached else []
    past, present = zip(*names, strict=True) if names else (("", ""), ())
    if len(tables) == 3:
        q, k, tables = rotated(graph, q, tables), rotated(graph, k, tables), []
    facts: dict[str, Any] = {}
    if op.window is not None:
        facts["local_window_size"] = op.window  # onnxruntime before 1.24 sees one key more
    if op.soft_cap is not None:
        facts["softcap"] = op.soft_cap
    out = f"{blk}.attention"
    node = helper.make_node(
        "GroupQueryAttention",
        [q, k, v, *past, *lengths, *tables],
        [out, *present],
        name=out,
        domain=MICROSOFT,
        num_heads=op.heads,
        kv_num_heads=op.kv_heads,
        do_rotary=len(tables) // 2,
        rotary_interleaved=0,
        scale=op.scores_scale,
        **facts,
    )
    graph.nodes.append(node)
    return out


def mlp(graph: Graph, blk: str, op: GatedMLP, normed: str) -> str:
    """Of x (..., D) the same shape."""
    gate = linear(graph, f"{blk}.{op.gate.name}", normed)
    up = linear(graph, f"{blk}.{op.up.name}", normed)
    return linear(graph, f"{blk}.{op.down.name}", gated(graph, op, gate, up))


def gated(graph: Graph, op: GatedMLP, gate: str, up: str) -> str:
    """activation(gate) * up."""
    if op.activation == "gelu":
        active = graph.op("Gelu", [gate], f"{gate}.gelu", approximate="tanh")
    else:
        active = silu(graph, gate)
    return graph.op("Mul", [active, up], f"{gate}.gated")


def silu(graph: Nodes, x: str) -> str:
    """x * sigmoid(x)."""
    sigmoid = graph.op("Sigmoid", [x], f"{x}.sigmoid")
    return graph.op("Mul", [x, sigmoid], f"{x}.silu")


def rotated(graph: Nodes, x: str, turned: list[str]) -> str:
    """Heads x (B, T, H * C), both halves of each head turned.

    `turned`: numbers (B, T) of places, and the cos and sin of all places, (places, C / 2).
    """
    return graph.op("RotaryEmbedding", [x, *turned], f"{x}.rotated", MICROSOFT)


def whole_model(
    graph: Nodes,
    name: str,
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    initializers: list[onnx.TensorProto],
) -> onnx.ModelProto:
    """A model of nodes: with opsets, and versions that older runtimes open."""
    stored = [*initializers, *graph.constants.values()]
    body = helper.make_graph(graph.nodes, name, inputs, outputs, stored)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(body, opset_imports=opsets, ir_version=10, producer_name="edgequant")
