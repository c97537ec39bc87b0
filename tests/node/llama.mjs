// Ids of texts, and greedy tokens after the first, as node-llama-cpp makes them.
// llama.mjs FILE COUNT TEXTS
import { getLlama } from "node-llama-cpp";

const [, , modelPath, count, texts] = process.argv;
const llama = await getLlama({ build: "never", gpu: false, logLevel: "error" });
const model = await llama.loadModel({ modelPath });
const ids = JSON.parse(texts).map((text) => model.tokenize(text));
const sequence = (await model.createContext({ contextSize: 256, threads: 1 })).getSequence();
const made = [];
for await (const token of sequence.evaluate(ids[0], { temperature: 0 })) {
  made.push(token);
  if (made.length === Number(count)) break;
}
console.log(JSON.stringify({ ids, made }));
process.exit(0);
