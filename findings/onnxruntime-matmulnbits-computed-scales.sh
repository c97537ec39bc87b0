#!/usr/bin/env bash
# onnxruntime 1.32, CPU: MatMulNBits at accuracy_level 4 gives zeros where its scales are the output of
# another node, here a Cast of float16 initializers, unless the optimizer folds that node away. At
# accuracy_level 0 the same graph is right either way. So a file with float16 scales depends on a
# session option that says nothing of the kind, and no error or warning is given.
# Seen: "level 4, optimizer off: largest output 0". Fails when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > scales.py <<'PYTHON'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

rows, cols, block = 16, 64, 32
draw = np.random.default_rng(0)
codes = draw.integers(0, 256, (rows, cols // block, block // 2)).astype(np.uint8)
scales = draw.uniform(0.01, 0.02, (rows, cols // block)).astype(np.float16)
x = draw.normal(size=(1, cols)).astype(np.float32)
nibbles = np.stack([codes & 15, codes >> 4], -1).reshape(rows, cols // block, block)
weight = ((nibbles.astype(np.float32) - 8) * scales.astype(np.float32)[..., None]).reshape(rows, cols)
right = x @ weight.T


def run(level, optimizer):
    cast = helper.make_node("Cast", ["half"], ["scales"], to=TensorProto.FLOAT)
    product = helper.make_node(
        "MatMulNBits", ["x", "codes", "scales"], ["y"], domain="com.microsoft",
        K=cols, N=rows, bits=4, block_size=block, accuracy_level=level,
    )
    graph = helper.make_graph(
        [cast, product], "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, cols])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, rows])],
        [numpy_helper.from_array(codes, "codes"), numpy_helper.from_array(scales, "half")],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    if not optimizer:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {"x": x})[0]


for level in (0, 4):
    for optimizer in (True, False):
        found = run(level, optimizer)
        state = "on" if optimizer else "off"
        print(f"level {level}, optimizer {state}: largest output {np.abs(found).max():g}")
        if level == 4 and not optimizer:
            assert not found.any()
        else:
            assert np.abs(found - right).max() < 0.05 * np.abs(right).max()
PYTHON
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 numpy
venv/bin/python scales.py
