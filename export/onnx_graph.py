"""A decoder in ONNX: the ops of each layer in com.microsoft operators, KV cache outside.

    embedding   Gather or GatherBlockQuantized
    Norm        SkipSimplifiedLayerNormalization together with the Residual before it, else standard
                operators
    Attention   q, k, v -> GroupQueryAttention (rotates, appends to the cache) -> attn_output
    GatedMLP    activation(gate) * up -> ffn_down
    MoE         see onnx_experts.py
    Residual    taken along by the norm that follows, else Add

A model that scores texts has no cache: a text is read whole, and `logits` are each token's scores.

There is no input for positions: GroupQueryAttention counts from the attention mask, so a batch may
be padded on the right only. A model that reads images has one (onnx_seeing.py). Names of inputs and
outputs are onnxruntime-genai's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from export import onnx_experts, onnx_nodes, onnx_seeing
from export.onnx_nodes import Graph
from runtime.archs import Arch, Attention, GatedMLP, MoE, Norm, Residual
from runtime.errors import UnsupportedError
from runtime.rope import Rope

HEAD_MULTIPLE = 16
"""GroupQueryAttention rotates a multiple of so many channels of a head."""


def check_ops(arch: Arch) -> None:
    """Refuse what onnxruntime would refuse when it runs the finished file, and what it lacks."""
    for index in range(arch.layers):
        for op in arch.layer(index).ops:
            if not isinstance(op, Norm | Attention | GatedMLP | MoE | Residual):
                raise UnsupportedError(
                    f"blk.{index} has {type(op).__name__}, which this ONNX writer has no operators "
                    "for; write a GGUF file instead."
                )
            if isinstance(op, Attention):
                _check_heads(arch, index, op)


def _check_heads(arch: Arch, index: int, op: Attention) -> None:
    if op.rope is not None and op.rope_channels % HEAD_MULTIPLE:
        raise UnsupportedError(
            f"the heads have {op.rope_channels} channels to rotate, and onnxruntime's "
            f"GroupQueryAttention rotates only multiples of {HEAD_MULTIPLE}; write a GGUF file "
            "instead."
        )
    if (op.kv_heads, op.head_dim) != (arch.kv_heads, arch.head_dim):
        raise UnsupportedError(
            f"blk.{index} has {op.kv_heads} key-value heads of {op.head_dim} channels and the "
            f"model {arch.kv_heads} of {arch.head_dim}, but onnxruntime-genai makes one cache for "
            "all layers; write a GGUF file instead."
        )


def rope_tables(arch: Arch) -> dict[tuple[Rope, int], str]:
    """Every rope of the layers, with the channels it rotates -> the name of its tables."""
    found: dict[tuple[Rope, int], str] = {}
    for index in range(arch.layers):
        op = arch.layer(index).attention
        if op.rope is not None:
            found.setdefault((op.rope, op.rope_channels), f"rope.{len(found)}" if found else "rope")
    return found


def decoder(graph: Graph) -> None:
    """Add every node of the model, from input_ids to logits."""
    arch = graph.arch
    lengths, ropes = _lengths(graph), rope_tables(arch)
    if graph.sees:
        stream = _Stream(graph, lengths, onnx_seeing.axis_tables(graph, ropes), onnx_seeing.EMBEDS)
    else:
        tables = {key: [f"{name}.cos", f"{name}.sin"] for key, name in ropes.items()}
        stream = _Stream(graph, lengths, tables, onnx_nodes.embed(graph))
    for index in range(arch.layers):
        stream.layer(index)
    stream.norm(arch.output_norm, "output_norm", last=True)
    onnx_nodes.head(graph, stream.y, "logits")


@dataclass
class _Stream:
    """The ops of the layers, one after the other. Values go by their names."""

    graph: Graph
    lengths: list[str]
    ropes: Mapping[tuple[Rope, int], list[str]]
    x: str
    """The residual stream."""
    y: str = ""
    """What the next op reads."""
    added: str = ""
    """What the stream is still to take up, once a norm reads it; "" = nothing."""

    def layer(self, index: int) -> None:
        """Add the nodes of a decoder layer."""
        blk, self.y = f"blk.{index}", self.x
        for place, op in enumerate(self.graph.arch.layer(index).ops):
            match op:
                case Norm():
                    self.norm(op, f"{blk}.{op.name}")
                case Attention():
                    self.settle(f"{blk}.{place}")
                    tables = self.ropes[op.rope, op.rope_channels] if op.rope else []
                    context = onnx_nodes.attention(
                        self.graph, index, op, self.y, self.lengths, tables
                    )
                    self.y = onnx_nodes.linear(self.graph, f"{blk}.{op.output.name}", context)
                case GatedMLP():
                    self.settle(f"{blk}.{place}")
                    self.y = onnx_nodes.mlp(self.graph, blk, op, self.y)
                case MoE():
                    self.settle(f"{blk}.{place}")
                    self.y = onnx_experts.mixture(self.graph, blk, op, self.y)
                case Residual():
                    self.settle(f"{blk}.{place}")
                    self.added = onnx_nodes.scaled(self.graph, blk, op, self.y, f"{blk}.{place}")
                    self.y = self.x

    def settle(self, name: str) -> None:
        """Take up what no norm took up: the next op reads the stream itself."""
        if self.added:
            self.x = self.graph.op("Add", [self.added, self.x], f"{name}.residual")
            self.y, self.added = self.x, ""

    def norm(self, op: Norm, name: str, last: bool = False) -> None:
        """Add a norm; `last`: nobody reads the stream after it."""
        if self.added:
            self.y, self.x = onnx_nodes.skip_norm(self.graph, op, name, [self.added, self.x], last)
            self.added = ""
        else:
            out = "first_norm" if self.y.startswith("token_embd") else name
            self.y = onnx_nodes.norm(self.graph, op, name, self.y, out)


def model(graph: Graph, initializers: list[onnx.TensorProto]) -> onnx.ModelProto:
    """The whole model around the nodes: inputs, outputs, opsets."""
    arch = graph.arch
    ids = _value("input_ids", TensorProto.INT64, ["batch_size", "sequence"])
    inputs = [
        *(onnx_seeing.inputs(arch) if graph.sees else [ids]),
        _value("attention_mask", TensorProto.INT64, ["batch_size", "total"]),
    ]
    outputs = [_value("logits", TensorProto.FLOAT, ["batch_size", "sequence", arch.outputs])]
    for layer in range(arch.layers) if graph.cached else ():
        heads = arch.layer(layer).attention
        kv, width = ["batch_size", heads.kv_heads], heads.head_dim
        for side in ("key", "value"):
            past, present = onnx_nodes.cache_names(layer, side)
            inputs.append(_value(past, TensorProto.FLOAT, [*kv, "past", width]))
            outputs.append(_value(present, TensorProto.FLOAT, [*kv, "total", width]))
    stored = onnx_seeing.read_by(graph, initializers)
    return onnx_nodes.whole_model(graph, arch.family, inputs, outputs, stored)


def _value(name: str, elem_type: int, shape: list[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, elem_type, shape)


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
