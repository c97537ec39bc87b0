// Logits of an ONNX folder: a prompt at once, then its last token alone after the cache of the rest.
// onnxruntime.mjs PACKAGE FOLDER OUTPUT ID,ID,...   writes both as float32, one after the other
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const [, , name, folder, output, listed] = process.argv;
const { env, InferenceSession, Tensor } = await import(name).then((m) => ({ ...m.default, ...m }));
const ids = listed.split(",").map(Number);
const session = await open();

async function open() {
  if (name === "onnxruntime-node") return InferenceSession.create(join(folder, "model.onnx"));
  env.wasm.numThreads = 1;
  const [graph, data] = ["model.onnx", "model.onnx.data"].map((f) => readFileSync(join(folder, f)));
  const externalData = [{ path: "model.onnx.data", data }];
  return InferenceSession.create(graph, { executionProviders: ["wasm"], externalData });
}

const whole = (values) => new Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);

function emptyCache() {
  const config = JSON.parse(readFileSync(join(folder, "genai_config.json"), "utf8")).model.decoder;
  const dims = [1, config.num_key_value_heads, 0, config.head_size];
  const names = session.inputNames.filter((input) => input.startsWith("past"));
  return Object.fromEntries(names.map((past) => [past, new Tensor("float32", [], dims)]));
}

async function run(tokens, before, cache) {
  const attention_mask = whole(Array(before + tokens.length).fill(1));
  return session.run({ input_ids: whole(tokens), attention_mask, ...cache });
}

const prompt = await run(ids, 0, emptyCache());
const most = await run(ids.slice(0, -1), 0, emptyCache());
const cache = {};
for (const [key, value] of Object.entries(most))
  if (key !== "logits") cache[key.replace("present", "past_key_values")] = value;
const last = await run(ids.slice(-1), ids.length - 1, cache);
writeFileSync(output, Float32Array.from([...prompt.logits.data, ...last.logits.data]));
