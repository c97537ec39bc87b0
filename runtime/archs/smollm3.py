"""SmolLM3: Llama whose every fourth layer, as a rule, is not told positions."""

from dataclasses import dataclass, replace
from typing import Any

from msgspec import Struct

from runtime import window_config
from runtime.archs.base import Arch
from runtime.archs.gguf_sizes import GgufFacts
from runtime.archs.layer import Attention
from runtime.archs.llama import Llama
from runtime.errors import CorruptFileError, UnsupportedError
from runtime.json_files import checked
from runtime.json_types import Size, Switch

INTERVAL = 4
"""One layer in so many, the last of them, has no rope where config.json does not say."""


class SmolLM3Config(Struct):
    """What config.json says of this family alone."""

    no_rope_layers: list[Switch] | None = None
    """1 where there is a rope."""
    no_rope_layer_interval: Size = INTERVAL


@dataclass(frozen=True)
class SmolLM3Arch(Arch):
    """Sizes, and which layers have no rope."""

    without_rope: tuple[int, ...] = ()


def every(interval: int, layers: int) -> tuple[int, ...]:
    """The last layer of every `interval`."""
    return tuple(range(interval - 1, layers, interval))


def without_rope(config: dict[str, Any], layers: int) -> tuple[int, ...]:
    """The layers that are not told positions. Raises CorruptFileError for a list of others."""
    facts = checked(config, SmolLM3Config, "config.json")
    told = facts.no_rope_layers
    if told is None:
        return every(facts.no_rope_layer_interval, layers)
    if len(told) != layers:
        raise CorruptFileError(
            f"config.json has no_rope_layers for {len(told)} layers and num_hidden_layers "
            f"{layers}; take the config.json that came with the weights."
        )
    return tuple(index for index, turns in enumerate(told) if not turns)


class SmolLM3(Llama):
    name = "smollm3"
    hf_types = ("smollm3",)
    hf_keys = (*SmolLM3Config.__struct_fields__, "attention_bias", *window_config.KEYS)
    gguf_ffn_scales = False
    hf_class = "SmolLM3ForCausalLM"
    theta = 2e6
    gguf_rope_factors = False
    gguf_biased = ("attn_q", "attn_k", "attn_v")
    arch_type = SmolLM3Arch

    def attention(self, arch: Arch, index: int) -> Attention:
        assert isinstance(arch, SmolLM3Arch)
        attention = super().attention(arch, index)
        return replace(attention, rope=None) if index in arch.without_rope else attention

    def sizes(self, config: dict[str, Any]) -> dict[str, Any]:
        sizes = super().sizes({"tie_word_embeddings": True} | config)
        return sizes | {"without_rope": without_rope(config, sizes["layers"])}

    def config(self, arch: Arch) -> dict[str, Any]:
        assert isinstance(arch, SmolLM3Arch)
        turned = [int(index not in arch.without_rope) for index in range(arch.layers)]
        return super().config(arch) | {"no_rope_layers": turned}

    def windows(self, config: dict[str, Any], layers: int) -> dict[str, Any]:
        # layers without rope have it; layer_types count whatever use_sliding_window says
        return window_config.windows(
            config,
            layers,
            window_config.size(config, None),
            lambda index: (
                bool(config.get("use_sliding_window")) and index in without_rope(config, layers)
            ),
        )

    def gguf_keys(self, arch: Arch) -> dict[str, Any]:
        assert isinstance(arch, SmolLM3Arch)
        if arch.without_rope != every(INTERVAL, arch.layers):
            found = ", ".join(map(str, arch.without_rope)) or "none"
            raise UnsupportedError(
                f"the layers without rope are {found}, and llama.cpp leaves it out of every fourth "
                "one of a smollm3, whatever a GGUF says; write an ONNX folder."
            )
        return super().gguf_keys(arch)

    def gguf_sizes(self, facts: GgufFacts) -> dict[str, Any]:
        sizes = super().gguf_sizes(facts)
        return sizes | {"without_rope": every(INTERVAL, sizes["layers"])}
