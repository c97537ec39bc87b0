#!/usr/bin/env bash
# onnxruntime: `local_window_size` 8 of GroupQueryAttention lets a query see 9 keys up to 1.23 and 8 from
# 1.24 on, on the CPU, so that one file computes two models, and a windowed model exported for one
# version is wrong in the other without a word.
# Seen: "1.23.2: 9 keys", "1.24.1: 8 keys". Fails when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > keys.py <<'PYTHON'
import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

tokens, width = 12, 16
names = ("query", "key", "value", "past_key", "past_value", "last", "total")
node = helper.make_node(
    "GroupQueryAttention", names, ["out", "keys", "values"], domain="com.microsoft",
    num_heads=1, kv_num_heads=1, local_window_size=8,
)


def value(name, kind, shape):
    return helper.make_tensor_value_info(name, kind, shape)


inputs = [value(name, TensorProto.FLOAT, [1, tokens, width]) for name in names[:3]]
inputs += [value(name, TensorProto.FLOAT, [1, 1, 0, width]) for name in names[3:5]]
inputs += [value("last", TensorProto.INT32, [1]), value("total", TensorProto.INT32, [1])]
outputs = [value("out", TensorProto.FLOAT, [1, tokens, width])]
outputs += [value(name, TensorProto.FLOAT, [1, 1, tokens, width]) for name in ("keys", "values")]
opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
graph = helper.make_graph([node], "attention", inputs, outputs)
model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
session = onnxruntime.InferenceSession(
    model.SerializeToString(), providers=["CPUExecutionProvider"]
)
zeros = np.zeros((1, tokens, width), np.float32)  # scores are equal: every key seen weighs the same
none = np.zeros((1, 1, 0, width), np.float32)
own = np.eye(tokens, width, dtype=np.float32)[None]  # so that the output is the weights
found = session.run(["out"], {
    "query": zeros, "key": zeros, "value": own, "past_key": none, "past_value": none,
    "last": np.array([tokens - 1], np.int32), "total": np.array([tokens], np.int32),
})[0]
seen = int((found[0, -1] > 0).sum())
print(f"{onnxruntime.__version__}: {seen} keys")
assert seen == int(sys.argv[1])
PYTHON
for expected in "1.23.2 9" "1.24.1 8"; do
  version=${expected% *}
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install --quiet --disable-pip-version-check \
    "onnxruntime==$version" onnx==1.23.2 numpy
  "./$version/bin/python" keys.py "${expected#* }"
done
