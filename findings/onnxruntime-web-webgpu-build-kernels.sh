#!/usr/bin/env bash
# onnxruntime-web 1.30: its build for WebGPU (`onnxruntime-web/webgpu`, the one that transformers.js 4 has
# in a browser) lacks a kernel on the processor that the usual build has: GatherBlockQuantized, the
# embedding in 4 or 8 bits of its own model builder. So a model that runs with `onnxruntime-web` and the
# provider "wasm" does not open with the other import and the same provider.
# Seen: "onnxruntime-web/webgpu: Could not find an implementation". Fails when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > model.py <<'PYTHON'
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

rows, cols = 4, 32
node = helper.make_node(
    "GatherBlockQuantized", ["codes", "ids", "scales"], ["y"], domain="com.microsoft",
    bits=8, block_size=cols, gather_axis=0, quantize_axis=1,
)
graph = helper.make_graph(
    [node], "one",
    [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", cols])],
    [
        numpy_helper.from_array(np.full((rows, cols), 130, np.uint8), "codes"),
        numpy_helper.from_array(np.ones((rows, 1), np.float32), "scales"),
    ],
)
opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), "model.onnx")
PYTHON
cat > open.mjs <<'JAVASCRIPT'
import { readFileSync } from "node:fs";

const seen = {};
for (const build of ["onnxruntime-web", "onnxruntime-web/wasm", "onnxruntime-web/webgpu"]) {
  const ort = await import(build);
  ort.env.wasm.numThreads = 1;
  try {
    const options = { executionProviders: ["wasm"] };
    const session = await ort.InferenceSession.create(readFileSync("model.onnx"), options);
    const ids = new ort.Tensor("int64", BigInt64Array.of(1n), [1]);
    const { y } = await session.run({ ids });
    seen[build] = `runs, first value ${y.data[0]}`;
  } catch (error) {
    seen[build] = String(error).includes("Could not find an implementation")
      ? "Could not find an implementation"
      : String(error);
  }
  console.log(`${build}: ${seen[build]}`);
}
const [usual, wasm, webgpu] = Object.values(seen);
const same = "runs, first value 2";
process.exit(usual === same && wasm === same && webgpu.startsWith("Could not find") ? 0 : 1);
JAVASCRIPT
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check onnx==1.23.2 numpy
venv/bin/python model.py
npm install --silent --no-audit --no-fund --ignore-scripts onnxruntime-web@1.30.0
node open.mjs
