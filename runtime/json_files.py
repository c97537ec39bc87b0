"""The JSON files that come with a model, each checked against what it may hold.

A field that is not described here is not read. Fields of one family alone are described with it.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from runtime.errors import CorruptFileError
from runtime.genai_file import GenaiConfig
from runtime.json_types import Counted, Finite, Id, Ids, Number, Size

T = TypeVar("T")


class RopeSettings(Struct):
    """`rope_scaling` or `rope_parameters` of config.json."""

    rope_type: str | None = None
    type: str | None = None
    rope_theta: Number | None = None
    factor: Number | None = None
    original_max_position_embeddings: Size | None = None
    low_freq_factor: Number | None = None
    high_freq_factor: Number | None = None
    beta_fast: Number | None = None
    beta_slow: Number | None = None
    attention_factor: Number | None = None
    mscale: Finite | None = None
    mscale_all_dim: Finite | None = None
    truncate: bool | None = None
    short_factor: list[Number] | None = None
    long_factor: list[Number] | None = None
    partial_rotary_factor: Number | None = None


class DualChunk(Struct):
    """`dual_chunk_attention_config` of config.json."""

    chunk_size: Size | None = None
    original_max_position_embeddings: Size | None = None


class SpecialIds(Struct):
    """Ids of special tokens."""

    eos_token_id: Ids = None
    bos_token_id: Id | None = None
    pad_token_id: Annotated[int, Meta(ge=-1)] | None = None


class Config(SpecialIds):
    """config.json, as far as every family reads it."""

    model_type: str | None = None
    architectures: list[str] | None = None
    num_labels: Size | None = None
    id2label: dict[str, Any] | list[Any] | None = None
    vocab_size: Size = 1
    hidden_size: Size = 1
    intermediate_size: Size = 1
    num_hidden_layers: Counted = 1
    num_attention_heads: Size = 1
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    rms_norm_eps: Number = 1.0
    max_position_embeddings: Size = 1
    tie_word_embeddings: bool | None = None
    hidden_act: str | None = None
    tokenizer_class: str | None = None
    use_sliding_window: bool | None = None
    is_causal: bool | None = None
    sliding_window: Annotated[int, Meta(ge=0, lt=2**31)] | None = None
    max_window_layers: Id | None = None
    layer_types: list[str] | None = None
    original_max_position_embeddings: Size | None = None
    dual_chunk_attention_config: DualChunk | None = None
    sparse_attention_config: dict[str, Any] | None = None
    attention_bias: bool | None = None
    mlp_bias: bool | None = None
    rope_theta: Number | None = None
    rope_scaling: RopeSettings | None = None
    rope_parameters: RopeSettings | None = None
    partial_rotary_factor: Number | None = None
    quantization_config: dict[str, Any] | None = None
    text_config: "Config | None" = None
    """Of the language model, where it is a part of a larger one."""


class GenerationConfig(SpecialIds):
    """generation_config.json, as far as artifacts say it again; older config.json have it too."""

    do_sample: bool | None = None
    min_length: Annotated[int, Meta(ge=0)] | None = None
    num_beams: Size | None = None
    repetition_penalty: Number | None = None
    temperature: Annotated[float, Meta(ge=0)] | None = None
    top_k: Annotated[int, Meta(ge=0, lt=2**31)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None


class Token(Struct):
    """A token with its flags."""

    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    special: bool = False


class OwnToken(Struct):
    """An added token of tokenizer.json."""

    id: int
    content: str


class TokenizerFile(Struct):
    """tokenizer.json, as far as it is read beside the `tokenizers` library."""

    added_tokens: list[OwnToken] = []


class NamedTemplate(Struct):
    """One of several chat templates."""

    name: str
    template: str


class SpecialTokens(Struct):
    """special_tokens_map.json."""

    bos_token: str | Token | None = None
    eos_token: str | Token | None = None
    pad_token: str | Token | None = None
    unk_token: str | Token | None = None
    sep_token: str | Token | None = None
    cls_token: str | Token | None = None
    mask_token: str | Token | None = None
    additional_special_tokens: list[str | Token] | None = None
    extra_special_tokens: list[str | Token] | dict[str, str | Token] | None = None


class TokenizerConfig(SpecialTokens):
    """tokenizer_config.json."""

    add_bos_token: bool | None = None
    add_eos_token: bool | None = None
    add_prefix_space: bool | None = None
    legacy: bool | None = None
    split_special_tokens: bool | None = None
    tokenizer_class: str | None = None
    added_tokens_decoder: dict[Id, Token] | None = None
    chat_template: str | list[NamedTemplate] | dict[str, str] | None = None


class Index(Struct):
    """model.safetensors.index.json."""

    weight_map: dict[str, str]


class AdapterConfig(Struct):
    """adapter_config.json of PEFT: what of it decides the merged weights."""

    peft_type: str | None = None
    base_model_name_or_path: str | None = None
    r: Size = 8
    lora_alpha: float = 8
    rank_pattern: dict[str, Size] | None = None
    alpha_pattern: dict[str, float] | None = None
    use_rslora: bool | None = None
    use_dora: bool | None = None
    init_lora_weights: bool | str | None = None
    trainable_token_indices: list[Id] | dict[str, list[Id]] | None = None


FILES: dict[str, Any] = {
    "adapter_config.json": AdapterConfig,
    "config.json": Config,
    "generation_config.json": GenerationConfig,
    "tokenizer_config.json": TokenizerConfig,
    "special_tokens_map.json": SpecialTokens,
    "added_tokens.json": dict[str, Id],
    "model.safetensors.index.json": Index,
    "genai_config.json": GenaiConfig,
}
"""File name -> what it holds."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, {} when the file is missing.

    Raises CorruptFileError when it is not JSON, or a field of it is not what it must be.
    """
    if not path.exists():
        return {}
    found = json_value(path)
    checked(found, FILES.get(path.name, dict[str, Any]), str(path))
    return dict(found)


def json_value(path: Path, remedy: str = "download it again") -> Any:
    """Whatever a JSON file holds, all of its text writable as UTF-8.

    Raises CorruptFileError, ending with `remedy`, when it is not JSON or no file.
    """
    if not path.is_file():
        raise CorruptFileError(f"{path} is not a file; {remedy}.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(found, ensure_ascii=False).encode("utf-8")  # half a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{path} is not valid JSON ({error}); {remedy}.") from error
    return found


def tokens_of(path: Path) -> list[OwnToken]:
    """The added tokens of a tokenizer.json, which may be large: the rest is skipped.

    Raises CorruptFileError when they are not what they must be.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=TokenizerFile).added_tokens
    except msgspec.DecodeError as error:
        raise CorruptFileError(f"{path} cannot be read: {error}.") from error


def checked(
    found: Any,
    kind: type[T],
    file: str,
    remedy: str = "correct it, or take the file that came with the weights",
) -> T:
    """A JSON value as a described type.

    Raises CorruptFileError that names the field, and ends with `remedy`.
    """
    try:
        return msgspec.convert(found, kind, str_keys=True)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at ")
        where = re.sub(r"\$\.?", "", place.replace("`", "")) or "the file"
        raise CorruptFileError(
            f"{file}: {where} is not what it must be ({reason[:1].lower()}{reason[1:]}); {remedy}."
        ) from error
