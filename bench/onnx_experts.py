"""A mixture of experts in onnxruntime: our plain operators and its operator QMoE.

    python bench/onnx_experts.py [--repeat 20]

The experts of one layer, in the shapes of Qwen1.5-MoE-A2.7B and Qwen3-30B-A3B, on one thread. QMoE
is given the shares as `router_weights`, because on the CPU it normalizes its own whatever it is
told. `distance` is that of the two results over the size of ours. Writes results/onnx_experts.json.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import common
from export.onnx_data import weight_arrays, weight_values
from export.onnx_experts import mixture
from export.onnx_nodes import MICROSOFT, Graph
from runtime.archs import Arch, MoE, family_of
from runtime.quant_types import QUANT_TYPES
from runtime.quant_types.onnx_int import OnnxInt
from runtime.tensor import Tensor, rows_and_cols

FACTS: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "vocab_size": 32,
    "hidden_size": 2048,
    "intermediate_size": 32,
    "num_attention_heads": 16,
    "num_hidden_layers": 1,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32,
}
SHAPES: dict[str, dict[str, int]] = {
    "A2.7B": {"moe_intermediate_size": 1408, "num_experts": 60, "num_experts_per_tok": 4},
    "30B-A3B": {"moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8},
}
TYPES, TOKENS = ("INT4_32", "INT4_32_SYM", "INT8_32"), (1, 128)
SAMPLE = 256
"""Different rows of a weight: what they are does not change how fast they are read."""
Arrays = dict[str, np.ndarray]


def weights_of(arch: Arch, type_name: str) -> dict[str, Tensor]:
    """Random router and experts of the layer: name within it -> weight."""
    draw, out = np.random.default_rng(0), {}
    for name, linear in arch.layer(0).linears.items():
        if not name.startswith("ffn"):
            continue
        values = draw.normal(0, 0.03, (SAMPLE, linear.inputs)).astype(np.float32)
        qtype = QUANT_TYPES["F32" if linear.precise else type_name]
        rows = qtype.pack(*qtype.quantize(values)) if not linear.precise else values.view(np.uint8)
        count = rows_and_cols(linear.shape)[0]
        # no two rows of the router are equal: ties would be broken differently
        picked = draw.permutation(np.arange(count) % SAMPLE)
        out[name] = Tensor(f"blk.0.{name}.weight", linear.shape, qtype, rows[picked])
    return out


def arrays(weight: Tensor) -> Arrays:
    """What a folder stores of a weight."""
    stored = weight_arrays(weight.name, weight.shape, weight.qtype)
    pairs = zip(stored, weight_values(weight), strict=True)
    return {array.name: np.concatenate(list(parts)) for array, parts in pairs}


def ours(arch: Arch, weights: dict[str, Tensor]) -> tuple[list[Any], Arrays]:
    """Nodes from x (1, tokens, D) to y, and their initializers."""
    layouts = dict.fromkeys(arch.shapes(), QUANT_TYPES["F32"])
    graph = Graph(arch, layouts | {w.name: w.qtype for w in weights.values()}, 4)
    out = mixture(graph, "blk.0", moe_of(arch), "x")
    given = {name: array for weight in weights.values() for name, array in arrays(weight).items()}
    given |= {name: numpy_helper.to_array(proto) for name, proto in graph.constants.items()}
    return [*graph.nodes, helper.make_node("Identity", [out], ["y"])], given


def moe_of(arch: Arch) -> MoE:
    """The layer's mixture."""
    found = arch.layer(0).mixture
    assert found
    return found


def qmoe(arch: Arch, weights: dict[str, Tensor]) -> tuple[list[Any], Arrays]:
    """The same, by one QMoE: gate and up are one matrix, whose rows are theirs in turn."""
    op, qtype = moe_of(arch), weights["ffn_down_exps"].qtype
    assert isinstance(qtype, OnnxInt)
    step = 2 if qtype.symmetric else 3

    def stacked(name: str) -> list[np.ndarray]:
        found = [a.reshape(len(a), -1) for a in arrays(weights[name]).values()]
        return [np.stack(found[at::step]) for at in range(step)]

    pairs = zip(stacked("ffn_gate_exps"), stacked("ffn_up_exps"), strict=True)
    first = [np.stack(pair, 2).reshape(len(pair[0]), -1, pair[0].shape[-1]) for pair in pairs]
    (router,) = arrays(weights["ffn_gate_inp"]).values()
    parts = dict(zip(("w1", "s1", "z1"), first, strict=False))
    parts |= dict(zip(("w2", "s2", "z2"), stacked("ffn_down_exps"), strict=False))
    zeros = ["", ""] if qtype.symmetric else ["z1", "z2"]
    given = {"rows": np.array([-1, op.router.inputs]), "router": np.ascontiguousarray(router.T)}
    inputs = ["flat", "scores", "w1", "s1", "", "w2", "s2", "", "", "", "", *zeros, "", "shares"]
    facts = {"k": op.top_k, "block_size": qtype.size, "expert_weight_bits": qtype.code_bits}
    facts |= {"swiglu_fusion": 1, "accuracy_level": 4, "normalize_routing_weights": 0}
    best = [f"best{at}" for at in range(2)]
    given |= {"top": np.array([op.top_k]), "last": np.array([-1])}
    nodes = [
        helper.make_node("Reshape", ["x", "rows"], ["flat"]),
        helper.make_node("MatMul", ["flat", "router"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["all"], axis=-1),
        helper.make_node("TopK", ["all", "top"], best),
        helper.make_node("ReduceSum", ["best0", "last"], ["total"], keepdims=1),
        helper.make_node("Div", ["all", "total"], ["shares"]),
        helper.make_node(
            "QMoE", inputs, ["made"], domain=MICROSOFT, activation_type="swiglu",
            activation_alpha=1.0, activation_beta=0.0, **facts,
        ),
        helper.make_node("Reshape", ["made", "shape"], ["y"]),
        helper.make_node("Shape", ["x"], ["shape"]),
    ]  # fmt: skip
    nodes[-2], nodes[-1] = nodes[-1], nodes[-2]
    return nodes, given | parts


def session(nodes: list[Any], given: Arrays, width: int, folder: Path) -> Any:
    """Nodes as a model that onnxruntime has loaded."""
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "tokens", width])
        for name in "xy"
    )
    protos = [numpy_helper.from_array(array, name) for name, array in given.items()]
    body = helper.make_graph(nodes, "experts", [x], [y], protos)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(body, opset_imports=opsets, ir_version=10)
    onnx.save(model, str(folder / "x.onnx"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(folder / "x.onnx"), options)


def compared(shape: str, type_name: str, repeat: int) -> common.Rows:
    """A line for each number of tokens: milliseconds of both, in turn."""
    config = FACTS | SHAPES[shape] | {"norm_topk_prob": True}
    arch = family_of(config).arch(config)
    weights, rows = weights_of(arch, type_name), []
    with tempfile.TemporaryDirectory() as folder:
        both = [session(*make(arch, weights), arch.hidden, Path(folder)) for make in (ours, qmoe)]
    for tokens in TOKENS:
        x = np.random.default_rng(1).normal(size=(1, tokens, arch.hidden)).astype(np.float32)
        times: list[list[float]] = [[], []]
        for _ in range(repeat if tokens == 1 else max(2, repeat // 5)):
            results = []
            for engine, taken in zip(both, times, strict=True):
                start = time.perf_counter()
                results.append(engine.run(None, {"x": x})[0])
                taken.append(1e3 * (time.perf_counter() - start))
        a, b = results
        line = {"shape": shape, "type": type_name, "tokens": tokens}
        line |= {"plain_ms": min(times[0]), "qmoe_ms": min(times[1])}
        rows.append(line | {"distance": float(np.linalg.norm(a - b) / np.linalg.norm(a))})
    return rows


def main() -> None:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=20)
    flags = parser.parse_args()
    every = [(shape, type_name) for shape in SHAPES for type_name in TYPES]
    rows = [row for case in every for row in compared(*case, flags.repeat)]
    print(common.table(rows))
    common.write("onnx_experts", rows, onnxruntime=onnxruntime.__version__)


if __name__ == "__main__":
    main()
