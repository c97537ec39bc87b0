"""What real checkpoints have, each made small: docs/traits.md says what becomes of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests import tokenizers_made
from tests.one_file_models import (
    YARN,
    copied_head,
    index_of_nothing,
    make,
    own_head,
    stale_index,
    with_config,
)
from tests.trait_changes import (
    Change,
    added,
    around,
    bare,
    both,
    dtype,
    hole,
    integers,
    large_key_biases,
    nan_rows,
    nothing,
    settings,
    shards,
    templates,
    wide_head,
)

WIDE = {"hidden_size": 64}
"""Heads of 16 channels: onnxruntime's attention rotates only multiples of that."""

EQUAL = ""
"""Logits and token ids are those of transformers."""

END, START = "<|endoftext|>", "<|im_start|>"
NFC = "NFC"
"""A word of the note on the bundled tokenizer, which is Qwen2's."""


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
    told: str = ""
    """What a note says where transformers gives other token ids than the file that is kept."""
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


OUTSIDE = {"original_max_position_embeddings": 48}
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
WINDOW = {"use_sliding_window": True, "sliding_window": 100}
"""Longer than the texts here, which a GGUF has to be judged on: test_windows.py has long ones."""
MISTRAL = {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 100}
KINDS = {"num_hidden_layers": 2, "layer_types": ["full_attention", "sliding_attention"]}
MSCALE = {"mscale": 0.7, "mscale_all_dim": 1.0}
EXACT = {"truncate": False}
CARD = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}

ADDED = {"add_bos_token": True, "add_eos_token": True}
FALSE_BOS = around((END,), bos_token=END, add_bos_token=False)
SPLIT = {"split_special_tokens": True}
AS_LLAMA = settings(tokenizer_class="LlamaTokenizer")


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
    Trait("a head in float64", {}, wide_head, "lm_head.weight is F64", "lm_head.weight is F64"),
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
    Trait("yarn's original context outside of it", {"rope_scaling": YARN, **OUTSIDE}, nothing),
    Trait("Llama 3's, likewise", LLAMA | {"rope_scaling": LLAMA3_ROPE, **OUTSIDE}, nothing),
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
    Trait("dual chunk attention", {"dual_chunk_attention_config": {"chunk_size": 100}}, nothing),
    Trait("a sliding window", WINDOW | {"max_window_layers": 0}, nothing),
    Trait("some layers with a window", WINDOW | KINDS, nothing),
    Trait("Mistral, a window in all layers", MISTRAL, nothing),
    refused("a window without a size", "its size is None", layer_types=["sliding_attention"]),
    refused(
        "`layer_types` of a kind that is not known",
        "'linear_attention' among its layer_types",
        layer_types=["linear_attention"],
    ),
    refused(
        "a window in a Llama", "no window in a llama", model_type="llama", use_sliding_window=True
    ),
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
    Trait("a token before each text", {}, around((END,), bos_token=END)),
    Trait("a token before each text, no `bos_token`", LLAMA, around((END,), bos_token=...)),
    Trait("`add_bos_token` false, a token before each text", {}, FALSE_BOS),
    Trait("`add_bos_token` without a post-processor", {}, settings(bos_token=END, **ADDED)),
    Trait("another token before each text", {}, around((START,), bos_token=END), "each text"),
    Trait("two tokens before each text", {}, around((END, START), bos_token=END), "each text"),
    Trait("a token after each text", QWEN3, both(bare, around((), (END,)))),
    Trait("a token before and after", {}, around((START,), (END,), bos_token=START)),
    Trait("a token after that ends nothing", {}, around((), (START,)), "after each text"),
    Trait("`split_special_tokens`", {}, settings(**SPLIT), *["sets split_special_tokens"] * 2),
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
        tokenizer="first",
        genai="the handling of spaces",
    ),
    Trait(
        "Llama 2's tokenizer with its class named",
        LLAMA,
        AS_LLAMA,
        told="other rules than LlamaTokenizer's",
        tokenizer="llama",
        genai="the handling of spaces",
    ),
    Trait(
        "Llama 2's with its class, saved anew",
        LLAMA,
        AS_LLAMA,
        "other ids",
        tokenizer="first",
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
