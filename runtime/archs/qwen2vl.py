"""The language model of Qwen2-VL and Qwen2.5-VL: Qwen2 with positions of three axes.

A token of text stands at the same place on all three, which is plain rope; the tokens of an image
do not (runtime/vision).
"""

from dataclasses import dataclass
from typing import Any

from runtime.archs.base import Arch
from runtime.archs.gguf_sizes import GgufFacts
from runtime.archs.qwen2 import Qwen2, later_layers
from runtime.errors import CorruptFileError
from runtime.json_files import checked
from runtime.json_types import Size
from runtime.vision.ids import IDS, image_ids

ROPES = ("rope_scaling", "rope_parameters")
SECTIONS = [16, 24, 24]
"""What transformers takes where config.json has no mrope_section."""
GGUF_SECTIONS = "rope.dimension_sections"


@dataclass(frozen=True)
class VisionArch(Arch):
    """Sizes of a language model that reads images."""

    sections: tuple[int, ...] = ()
    """Pairs of channels of a head that turn with time, height and width, in this order."""


class Qwen2VL(Qwen2):
    name = "qwen2vl"
    hf_types = ("qwen2_5_vl", "qwen2_vl", "qwen2_5_vl_text", "qwen2_vl_text")
    hf_class = "Qwen2_5_VLForConditionalGeneration"
    hf_auto = "AutoModelForImageTextToText"
    hf_beside = ("visual.", "model.visual.")
    sees = True
    placeholders = ("<|image_pad|>", "<|video_pad|>")
    genai_type = "qwen2"
    genai_sees = "qwen2_5_vl"  # the older tower's graph has the same inputs and outputs
    theta = 1000000.0
    arch_type = VisionArch

    def sizes(self, config: dict[str, Any]) -> dict[str, Any]:
        empty: dict[str, Any] = {}
        scaling = next((config[key] for key in ROPES if config.get(key)), empty)
        said = scaling.get("mrope_section", SECTIONS)
        found = checked(said, list[Size], "mrope_section of config.json")
        sizes = super().sizes(plain_rope(config))
        if config.get("vision_config"):
            image_ids(config, sizes["vocab"])
        return sizes | {"sections": whole(tuple(found), sizes["head_dim"])}

    def config(self, arch: Arch) -> dict[str, Any]:
        assert isinstance(arch, VisionArch)
        found = super().config(arch)
        sections = {"mrope_section": list(arch.sections)}
        return found | {key: found["rope_parameters"] | sections for key in ROPES}

    def windows(self, config: dict[str, Any], layers: int) -> dict[str, Any]:
        return later_layers({"max_window_layers": 80} | config, layers)

    def notes(self, config: dict[str, Any]) -> tuple[str, ...]:
        found = super().notes(plain_rope(config))
        if not config.get("vision_config"):
            return found
        folders = "ONNX, GPTQ and AWQ folders hold it"
        if missing := [key for key in IDS if key not in config]:
            lacking = " and no ".join(missing)
            folders = f"ONNX folders are without it, as config.json has no {lacking}"
        return (
            *found,
            "the vision tower goes into a file of its own for llama.cpp, which `quantize mmproj` "
            f"writes; {folders}",
        )

    def gguf_keys(self, arch: Arch) -> dict[str, Any]:
        assert isinstance(arch, VisionArch)
        # room for four axes, of which this family has three
        return super().gguf_keys(arch) | {f"{self.name}.{GGUF_SECTIONS}": [*arch.sections, 0]}

    def gguf_sizes(self, facts: GgufFacts) -> dict[str, Any]:
        sizes = super().gguf_sizes(facts)
        keys, need = facts.keys, "three numbers and a 0 are needed"
        sections = keys.whole_numbers(GGUF_SECTIONS, need)
        if len(sections) != 4 or sections[3] or min(sections) < 0:
            raise keys.wrong(GGUF_SECTIONS, list(sections), need)
        return sizes | {"sections": whole(sections[:3], sizes["head_dim"], "the GGUF")}


def plain_rope(config: dict[str, Any]) -> dict[str, Any]:
    """A config.json with the rope of text: transformers takes "mrope" for "default" as well."""
    out = dict(config)
    for key in ROPES:
        if scaling := config.get(key):
            kinds = {k: "default" for k in ("type", "rope_type") if scaling.get(k) == "mrope"}
            kept = {k: value for k, value in scaling.items() if k != "mrope_section"}
            out[key] = kept | kinds
    return out


def whole(sections: tuple[int, ...], head_dim: int, where: str = "config.json") -> tuple[int, ...]:
    """The sections, when they are a head's pairs of channels. Raises CorruptFileError otherwise."""
    if len(sections) != 3 or sum(sections) != head_dim // 2:
        raise CorruptFileError(
            f"{where} has the rope sections {list(sections)}, but three numbers with the sum "
            f"{head_dim // 2} are needed (mrope_section); take the file that came with the weights."
        )
    return sections
