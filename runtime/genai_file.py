"""genai_config.json of onnxruntime-genai, as far as it is read."""

from msgspec import Struct, field

from runtime.json_types import Counted, Ids, Numbered, Size


class GenaiInputs(Struct):
    """Names of a graph's inputs; %d is a layer."""

    input_ids: str | None = None
    inputs_embeds: str | None = None
    attention_mask: str | None = None
    position_ids: str | None = None
    past_key_names: Numbered | None = None
    past_value_names: Numbered | None = None


class GenaiOutputs(Struct):
    """Names of a graph's outputs; %d is a layer."""

    logits: str | None = None
    present_key_names: Numbered | None = None
    present_value_names: Numbered | None = None


class GenaiDecoder(Struct):
    """Sizes and names of a decoder's graph."""

    filename: str | None = None
    hidden_size: Size = 1
    num_hidden_layers: Counted = 1
    num_attention_heads: Size = 1
    num_key_value_heads: Size = 1
    head_size: Size = 1
    inputs: GenaiInputs = field(default_factory=GenaiInputs)
    outputs: GenaiOutputs = field(default_factory=GenaiOutputs)


class GenaiPart(Struct):
    """Another graph, and its own names of inputs and outputs."""

    filename: str | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)


class GenaiModel(Struct):
    """The model of genai_config.json."""

    type: str | None = None
    vocab_size: Size = 1
    context_length: Size = 1
    eos_token_id: Ids = None
    decoder: GenaiDecoder = field(default_factory=GenaiDecoder)
    embedding: GenaiPart | None = None
    vision: GenaiPart | None = None


class GenaiConfig(Struct):
    """genai_config.json, as far as it is read."""

    model: GenaiModel | None = None
