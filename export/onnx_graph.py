"""The nodes of a decoder in ONNX: forward.py's model in com.microsoft operators, KV cache outside.

    input_ids -> Gather or GatherBlockQuantized -> norm
    each layer: q, k, v -> GroupQueryAttention (rotates, appends to the cache) -> attn_output
                -> skip + norm -> silu(gate) * up -> ffn_down -> skip + norm
    -> head -> logits

There is no input for positions: GroupQueryAttention counts from the attention mask, so a batch may
be padded on the right only. Names of inputs and outputs are onnxruntime-genai's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from runtime.archs import Arch
from runtime.blocks import Block
from runtime.blocks.onnx_int import OnnxInt

MICROSOFT = "com.microsoft"

EMBEDDING = "token_embd.weight"

TIED_BLOCKS = f"{EMBEDDING}.blocks"
"""The codes of a tied embedding as the head reads them: the same bytes under another shape.

GatherBlockQuantized wants (V, codes' bytes), MatMulNBits (V, blocks, codes' bytes). A Reshape
between them would make onnxruntime hold another copy of the codes in memory.
"""


@dataclass
class Graph:
    """The nodes so far; `layouts` says how each weight is stored. Values go by their names."""

    arch: Arch
    layouts: Mapping[str, Block]
    accuracy_level: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def op(
        self, kind: str, inputs: list[str], out: str, domain: str = "", **attributes: Any
    ) -> str:
        """Add a node named after its one output, which is returned."""
        node = helper.make_node(kind, inputs, [out], name=out, domain=domain, **attributes)
        self.nodes.append(node)
        return out

    def constant(self, name: str, values: Any, dtype: type) -> str:
        """A small constant kept inside the .onnx file."""
        self.constants[name] = numpy_helper.from_array(np.asarray(values, dtype), name)
        return name


def stored_names(name: str, layout: Block) -> list[str]:
    """Initializers of one weight: itself, or B, scales and (unless symmetric) zero points."""
    if not isinstance(layout, OnnxInt):
        return [name]
    return [f"{name}.q", f"{name}.scale"] + ([] if layout.symmetric else [f"{name}.zero"])


def decoder(graph: Graph) -> None:
    """Add every node of the model, from input_ids to logits."""
    arch = graph.arch
    lengths = _lengths(graph)
    residual = _embed(graph)
    normed = _first_norm(graph, residual, "blk.0.attn_norm.weight")
    for layer in range(arch.layers):
        blk = f"blk.{layer}"
        after = f"blk.{layer + 1}.attn_norm" if layer + 1 < arch.layers else "output_norm"
        context = _attention(graph, blk, normed, lengths)
        out = _linear(graph, f"{blk}.attn_output", context)
        normed, residual = _skip_norm(graph, out, residual, f"{blk}.ffn_norm")
        out = _linear(graph, f"{blk}.ffn_down", _ffn(graph, blk, normed))
        normed, residual = _skip_norm(graph, out, residual, after)
    _linear(graph, arch.head.removesuffix(".weight"), normed, out="logits")


def model(graph: Graph, initializers: list[onnx.TensorProto]) -> onnx.ModelProto:
    """The whole model around the nodes: inputs, outputs, opsets."""
    arch = graph.arch
    kv = ["batch", arch.kv_heads]
    inputs = [
        _value("input_ids", TensorProto.INT64, ["batch", "sequence"]),
        _value("attention_mask", TensorProto.INT64, ["batch", "total"]),
    ]
    outputs = [_value("logits", TensorProto.FLOAT, ["batch", "sequence", arch.vocab])]
    for layer in range(arch.layers):
        for side in ("key", "value"):
            past, present = _cache_names(layer, side)
            inputs.append(_value(past, TensorProto.FLOAT, [*kv, "past", arch.head_dim]))
            outputs.append(_value(present, TensorProto.FLOAT, [*kv, "total", arch.head_dim]))
    body = helper.make_graph(
        graph.nodes, arch.family, inputs, outputs, [*initializers, *graph.constants.values()]
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(body, opset_imports=opsets, ir_version=10, producer_name="edgequant")


def _value(name: str, kind: int, shape: list[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _cache_names(layer: int, side: str) -> tuple[str, str]:
    return f"past_key_values.{layer}.{side}", f"present.{layer}.{side}"


def _lengths(graph: Graph) -> list[str]:
    """seqlens_k (B,) int32: tokens in each row less one; total_sequence_length () int32."""
    one = graph.constant("lengths.one", [1], np.int64)
    axis = graph.constant("lengths.axis", 1, np.int64)
    tokens = graph.op("ReduceSum", ["attention_mask", one], "lengths.tokens", keepdims=0)
    last = graph.op("Sub", [tokens, one], "lengths.last")
    shape = graph.op("Shape", ["attention_mask"], "lengths.shape")
    total = graph.op("Gather", [shape, axis], "lengths.width", axis=0)
    return [
        graph.op("Cast", [last], "lengths.seqlens_k", to=TensorProto.INT32),
        graph.op("Cast", [total], "lengths.total", to=TensorProto.INT32),
    ]


def _embed(graph: Graph) -> str:
    """Rows of the embedding: (B, T, D)."""
    name, layout = EMBEDDING, graph.layouts[EMBEDDING]
    stored = stored_names(name, layout)
    if not isinstance(layout, OnnxInt):
        return graph.op("Gather", [name, "input_ids"], "token_embd", axis=0)
    facts = {"bits": layout.code_bits, "block_size": layout.size}
    return graph.op(
        "GatherBlockQuantized",
        [stored[0], "input_ids", *stored[1:]],
        "token_embd",
        MICROSOFT,
        gather_axis=0,
        quantize_axis=1,
        **facts,
    )


def _first_norm(graph: Graph, x: str, weight: str) -> str:
    """RMS norm in standard operators, which onnxruntime fuses; later ones come with a skip."""
    # SimplifiedLayerNormalization is no operator of the standard: onnx's checker refuses it
    axis = graph.constant("first_norm.axis", [-1], np.int64)
    eps = graph.constant("first_norm.eps", graph.arch.eps, np.float32)
    two = graph.constant("first_norm.two", 2.0, np.float32)
    square = graph.op("Pow", [x, two], "first_norm.square")
    mean = graph.op("ReduceMean", [square, axis], "first_norm.mean", keepdims=1)
    safe = graph.op("Add", [mean, eps], "first_norm.safe")
    root = graph.op("Sqrt", [safe], "first_norm.root")
    unit = graph.op("Div", [x, root], "first_norm.unit")
    return graph.op("Mul", [unit, weight], "first_norm")


def _skip_norm(graph: Graph, x: str, residual: str, norm: str) -> tuple[str, str]:
    """norm(x + residual), and x + residual."""
    summed = f"{norm}.residual"
    node = helper.make_node(
        "SkipSimplifiedLayerNormalization",
        [x, residual, f"{norm}.weight"],
        [norm, "", "", summed],
        name=norm,
        domain=MICROSOFT,
        epsilon=graph.arch.eps,
    )
    if norm == "output_norm":
        del node.output[1:]  # nobody reads the last sum
    graph.nodes.append(node)
    return norm, summed


def _linear(graph: Graph, part: str, x: str, out: str = "") -> str:
    """x through a linear and its bias; the value is called `part` unless `out` is given."""
    name, out = f"{part}.weight", out or part
    layout = graph.layouts[name]
    bias = [f"{part}.bias"] if f"{part}.bias" in graph.layouts else []
    if not isinstance(layout, OnnxInt):
        turned = graph.op("Transpose", [name], f"{out}.turned", perm=[1, 0])
        if not bias:
            return graph.op("MatMul", [x, turned], out)
        return graph.op("Add", [graph.op("MatMul", [x, turned], f"{out}.product"), *bias], out)
    rows, cols = _shape(graph.arch, part)
    stored = stored_names(name, layout)
    inputs = [x, TIED_BLOCKS if name == EMBEDDING else stored[0], *stored[1:]]
    if bias:
        inputs += [""] * (5 - len(inputs)) + bias
    facts = {"K": cols, "N": rows, "bits": layout.code_bits, "block_size": layout.size}
    return graph.op(
        "MatMulNBits", inputs, out, MICROSOFT, accuracy_level=graph.accuracy_level, **facts
    )


def _shape(arch: Arch, part: str) -> tuple[int, ...]:
    return arch.shapes()[f"{part}.weight"]


def _attention(graph: Graph, blk: str, normed: str, lengths: list[str]) -> str:
    """What attn_output reads: (B, T, H * C). The cache holds rotated keys."""
    arch, layer = graph.arch, int(blk.removeprefix("blk."))
    heads = [_linear(graph, f"{blk}.attn_{part}", normed) for part in "qkv"]
    keys, values = _cache_names(layer, "key"), _cache_names(layer, "value")
    out = f"{blk}.attention"
    node = helper.make_node(
        "GroupQueryAttention",
        [*heads, keys[0], values[0], *lengths, "rope.cos", "rope.sin"],
        [out, keys[1], values[1]],
        name=out,
        domain=MICROSOFT,
        num_heads=arch.heads,
        kv_num_heads=arch.kv_heads,
        do_rotary=1,
        rotary_interleaved=0,
        scale=float(arch.head_dim**-0.5),
    )
    graph.nodes.append(node)
    return out


def _ffn(graph: Graph, blk: str, normed: str) -> str:
    """What ffn_down reads: (B, T, F)."""
    gate = _linear(graph, f"{blk}.ffn_gate", normed)
    up = _linear(graph, f"{blk}.ffn_up", normed)
    sigmoid = graph.op("Sigmoid", [gate], f"{gate}.sigmoid")
    silu = graph.op("Mul", [gate, sigmoid], f"{gate}.silu")
    return graph.op("Mul", [silu, up], f"{blk}.ffn")
