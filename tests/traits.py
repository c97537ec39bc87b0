"""What real checkpoints have, each made small: docs/traits.md says what becomes of it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests import tokenizers_made
from tests.one_file_models import (
    INDEX,
    SINGLE,
    YARN,
    copied_head,
    edit,
    index_of_nothing,
    make,
    own_head,
    stale_index,
    weights,
    with_config,
)

WIDE = {"hidden_size": 64}
"""Heads of 16 channels: onnxruntime's attention rotates only multiples of that."""

EQUAL = ""
"""Logits and token ids are those of transformers."""

NFC = "NFC"
"""A word of the note on the bundled tokenizer, which is Qwen2's."""

Change = Callable[[Path], Any]


@dataclass(frozen=True)
class Trait:
    """A model with one trait, and the sentence with which a container refuses it, EQUAL if none.

    `genai` is a part of the note on what onnxruntime-genai's own tokenizer reads otherwise.
    """

    name: str
    config: dict[str, Any]
    change: Change
    gguf: str = EQUAL
    onnx: str = EQUAL
    tokenizer: str = ""
    """One that `tokenizers_made.with_specials` knows; "" = the bundled one."""
    genai: str = NFC

    def make(self, folder: Path) -> Path:
        """The checkpoint."""
        if self.tokenizer:
            backend, special = tokenizers_made.with_specials(self.tokenizer)
            special["tokenizer_class"] = "TokenizersBackend"  # tokenizer.json as it is
            source = tokenizers_made.save(backend, folder.with_name("tokenizer"), **special)
            end = backend.token_to_id(special["eos_token"])
            sizes = {"vocab_size": backend.get_vocab_size() + 3, "eos_token_id": end}
            make(folder, **WIDE | sizes | self.config)
            for file in source.iterdir():
                (folder / file.name).write_bytes(file.read_bytes())
            (folder / "generation_config.json").unlink(missing_ok=True)
        else:
            make(folder, **WIDE | self.config)
        self.change(folder)
        return folder


def nothing(folder: Path) -> None:
    """The model as it is made."""


def dtype(*kinds: torch.dtype) -> Change:
    """Weights in these types, in turn."""

    def change(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        names = enumerate(sorted(values))
        return {name: values[name].to(kinds[at % len(kinds)]) for at, name in names}

    return lambda folder: weights(folder, change)


def bare(folder: Path) -> None:
    """Names as the model inside has them, without `model.`."""
    weights(folder, lambda w: {name.removeprefix("model."): value for name, value in w.items()})


def shards(folder: Path) -> None:
    """One file for each tensor, and an index."""
    values = load_file(folder / SINGLE)
    table = {name: f"part-{at}.safetensors" for at, name in enumerate(values)}
    for name, file in table.items():
        save_file({name: values[name]}, folder / file, metadata={"format": "pt"})
    (folder / SINGLE).unlink()
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": table}))


def large_key_biases(folder: Path) -> None:
    """Key biases of norm 900, as Qwen2.5 has them."""

    def grow(values: dict[str, torch.Tensor]) -> None:
        for name, value in values.items():
            if name.endswith("k_proj.bias"):
                values[name] = value / value.norm() * 900

    weights(folder, grow)


def nan_rows(folder: Path) -> None:
    """NaN in rows of the embedding that no token uses."""

    def spoil(values: dict[str, torch.Tensor]) -> None:
        values["model.embed_tokens.weight"][4150:] = float("nan")

    weights(folder, spoil)


def integers(folder: Path) -> None:
    """A weight in int8, with a config that says so."""
    weights(
        folder,
        lambda w: w.update(
            {"model.layers.0.mlp.up_proj.weight": torch.ones(48, 64, dtype=torch.int8)}
        ),
    )
    edit(folder, "config.json", quantization_config={"quant_method": "int8"})


def added(file: str = "tokenizer_config.json", **flags: Any) -> Change:
    """A token of id 4096 that only one file names."""

    def change(folder: Path) -> None:
        text = "<|tool|>"
        if file == "added_tokens.json":
            edit(folder, file, **{text: 4096})
            edit(folder, "tokenizer_config.json", added_tokens_decoder=...)
            return
        path = folder / "tokenizer_config.json"
        decoder = json.loads(path.read_text()).get("added_tokens_decoder", {})
        decoder["4096"] = {"content": text, "special": True} | flags
        edit(folder, path.name, added_tokens_decoder=decoder)

    return change


def hole(folder: Path) -> None:
    """A token whose id leaves others out."""
    path = folder / "tokenizer_config.json"
    decoder = json.loads(path.read_text()).get("added_tokens_decoder", {})
    edit(folder, path.name, added_tokens_decoder=decoder | {"4100": {"content": "<|far|>"}})


def tokenizer_json(change: Callable[[dict[str, Any]], Any]) -> Change:
    """Another tokenizer.json."""

    def apply(folder: Path) -> None:
        path = folder / "tokenizer.json"
        facts = json.loads(path.read_text())
        change(facts)
        path.write_text(json.dumps(facts))

    return apply


def begins(folder: Path) -> None:
    """A post-processor that puts a token before each text."""
    text, index = "<|endoftext|>", 4093
    step = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": text, "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [
            {"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 1}},
        ],
        "special_tokens": {text: {"id": text, "ids": [index], "tokens": [text]}},
    }
    tokenizer_json(lambda found: found.update(post_processor=step))(folder)
    edit(folder, "tokenizer_config.json", bos_token=text)


def templates(folder: Path) -> None:
    """Chat templates of several names."""
    text = "{% for m in messages %}{{ m.content }}{% endfor %}"
    listed = [{"name": name, "template": text} for name in ("default", "tool_use")]
    edit(folder, "tokenizer_config.json", chat_template=listed)


LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
QWEN3 = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 32}
SMOLLM3 = {
    "model_type": "smollm3",
    "architectures": ["SmolLM3ForCausalLM"],
    "num_hidden_layers": 4,
    "pad_token_id": 4093,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
MSCALE = {"mscale": 0.7, "mscale_all_dim": 1.0}
EXACT = {"truncate": False}
CARD = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


def refused(name: str, sentence: str, **facts: Any) -> Trait:
    """A config.json that no container takes."""
    return Trait(name, {}, with_config(**facts), sentence, sentence)


TRAITS = [
    Trait("Qwen2, tied", {}, nothing),
    Trait("Qwen2, a head of its own", {"tie_word_embeddings": False}, nothing),
    Trait("Llama", LLAMA | {"tie_word_embeddings": False}, nothing),
    Trait("Llama, biases everywhere", LLAMA | {"attention_bias": True, "mlp_bias": True}, nothing),
    Trait("Llama, heads of a width of their own", LLAMA | {"head_dim": 32}, nothing),
    Trait("Qwen3, norms of queries and keys", QWEN3, nothing),
    Trait("SmolLM3, layers without rope", SMOLLM3, nothing),
    Trait("one key-value head", {"num_key_value_heads": 1}, nothing),
    Trait("as many key-value heads as heads", {"num_key_value_heads": 4}, nothing),
    Trait(
        "Qwen2, heads of a width of their own",
        {"head_dim": 32},
        nothing,
        gguf="opens a qwen2 only where heads times head_dim",
    ),
    Trait("key biases of norm 900", {}, large_key_biases),
    Trait("vocabulary padded with rows", {"vocab_size": 4224}, nothing),
    Trait("`tie_word_embeddings`, and a head in the file", {}, own_head),
    Trait("`tie_word_embeddings`, and a copy of the embedding", {}, copied_head),
    Trait("an old index beside model.safetensors", {}, stale_index),
    Trait("an index of files that are gone", {}, index_of_nothing),
    Trait("a file for each tensor", {}, shards),
    Trait("float16 weights", {}, dtype(torch.float16)),
    Trait("float32 weights", {}, dtype(torch.float32)),
    Trait("weights of several types", {}, dtype(torch.float16, torch.float32, torch.bfloat16)),
    Trait("names without `model.`", {}, bare),
    Trait("a quantization_config of nothing", {}, with_config(quantization_config=None)),
    Trait("int8 weights", {}, integers, "already quantized", "already quantized"),
    Trait("NaN in unused rows", {}, nan_rows, "holds NaN or infinity", "holds NaN or infinity"),
    Trait("rope base of a million", {"rope_theta": 1e6}, nothing),
    Trait("linear rope scaling", {"rope_scaling": {"type": "linear", "factor": 2.0}}, nothing),
    Trait("Llama 3's rope scaling", LLAMA | {"rope_scaling": LLAMA3_ROPE}, nothing),
    Trait("yarn", {"rope_scaling": YARN}, nothing),
    Trait("yarn as Qwen's card says it", {"rope_scaling": CARD}, nothing),
    Trait("yarn, `mscale`", {"rope_scaling": YARN | MSCALE}, nothing),
    Trait("yarn, `truncate` false", {"rope_scaling": YARN | EXACT}, nothing, "truncate"),
    Trait("unknown keys of rope_scaling", {"rope_scaling": YARN | {"finetuned": True}}, nothing),
    Trait(
        "rope_scaling beside rope_parameters",
        {"rope_scaling": YARN, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        nothing,
    ),
    refused(
        "dynamic rope scaling",
        "rope scaling 'dynamic'",
        rope_scaling={"type": "dynamic", "factor": 2.0},
    ),
    refused(
        "longrope", "rope scaling 'longrope'", rope_scaling={"rope_type": "longrope", "factor": 2.0}
    ),
    refused("rope of some channels", "partial_rotary_factor", partial_rotary_factor=0.5),
    refused("a sliding window", "use_sliding_window", use_sliding_window=True, sliding_window=8),
    refused("another activation", "hidden_act 'gelu'", hidden_act="gelu"),
    refused("heads that do not divide", "4 attention heads do not share 3", num_key_value_heads=3),
    refused(
        "an architecture that is not known", "unknown architecture 'mamba'", model_type="mamba"
    ),
    Trait("a token of tokenizer_config.json alone", {}, added()),
    Trait("a token of added_tokens.json alone", {}, added("added_tokens.json")),
    Trait("an added token that is no special one", {}, added(special=False)),
    Trait(
        "an added token that takes spaces",
        {},
        added(lstrip=True, rstrip=True),
        "sets lstrip",
        genai="lstrip",
    ),
    Trait(
        "an added token of single words",
        {},
        added(single_word=True),
        "sets single_word",
        genai="single_word",
    ),
    Trait("a normalized added token", {}, added(normalized=True)),
    Trait("ids of added tokens with holes", {}, hole, "ids before it", "ids before it"),
    Trait("a token before each text", {}, begins),
    Trait("chat templates of several names", {}, templates),
    Trait("Llama 3's tokenizer", LLAMA, nothing, tokenizer="llama-bpe", genai=EQUAL),
    Trait("Qwen2's tokenizer", LLAMA, nothing, tokenizer="qwen2"),
    Trait("GPT-2's tokenizer", LLAMA, nothing, tokenizer="gpt-2", genai=EQUAL),
    Trait("SmolLM's tokenizer", LLAMA, nothing, tokenizer="smollm", genai=EQUAL),
    Trait(
        "DeepSeek V3's tokenizer",
        LLAMA,
        nothing,
        tokenizer="deepseek-v3",
        genai="does not know the pattern",
    ),
    Trait(
        "Qwen2's tokenizer without NFC", LLAMA, nothing, tokenizer="deepseek-r1-qwen", genai=EQUAL
    ),
    Trait("Llama 2's tokenizer", LLAMA, nothing, tokenizer="llama", genai="the handling of spaces"),
    Trait(
        "Llama 2's, saved anew",
        LLAMA,
        nothing,
        "other ids",
        tokenizer="metaspace",
        genai="the handling of spaces",
    ),
    Trait(
        "a lower-casing tokenizer",
        LLAMA,
        nothing,
        "Lowercase",
        tokenizer="lower case",
        genai="Lowercase",
    ),
    Trait(
        "BERT's kind of tokenizer",
        LLAMA,
        nothing,
        "WordPiece",
        tokenizer="word pieces",
        genai="does not know a WordPiece tokenizer",
    ),
]
