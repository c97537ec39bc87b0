// Greedy tokens after a text, and a chat as text and as ids, as transformers.js makes them.
// transformers.mjs FOLDER NAME TEXT COUNT MESSAGES   FOLDER/NAME is an ONNX folder
import { AutoModelForCausalLM, AutoTokenizer, env } from "@huggingface/transformers";

const [, , folder, name, text, count, messages] = process.argv;
env.allowRemoteModels = false;
env.localModelPath = folder;
const tokenizer = await AutoTokenizer.from_pretrained(name);
const options = { subfolder: "", dtype: "fp32", device: "cpu" };
const model = await AutoModelForCausalLM.from_pretrained(name, options);
const prompt = tokenizer(text);
const asked = { max_new_tokens: Number(count), do_sample: false };
const made = await model.generate({ ...prompt, ...asked });
const chat = (given) =>
  tokenizer.apply_chat_template(JSON.parse(messages), { add_generation_prompt: true, ...given });
console.log(
  JSON.stringify({
    prompt: prompt.input_ids.tolist()[0].map(Number),
    made: made.tolist()[0].map(Number),
    chat: chat({ tokenize: false }),
    chat_ids: chat({ return_tensor: false, return_dict: false }),
  }),
);
