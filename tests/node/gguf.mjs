// Metadata and tensors of a GGUF file, as @huggingface/gguf reads them.
// gguf.mjs FILE
import { gguf } from "@huggingface/gguf";

const { metadata, tensorInfos } = await gguf(process.argv[2], { allowLocalFile: true });
const plain = (_, value) => (typeof value === "bigint" ? Number(value) : value);
console.log(JSON.stringify({ metadata, tensors: tensorInfos }, plain));
