"""The mixtures of GPTQ and AWQ folders: linears of one type, tables in float16."""

from dataclasses import dataclass

from export.joined import of_checkpoint
from export.mixture import Preset
from runtime.archs import Arch
from runtime.quant_types import QUANT_TYPES
from runtime.quant_types.onnx_int import ACT


@dataclass(frozen=True)
class LinearPreset(Preset):
    """One type for the linears whose rows can be packed eight at a time, F16 for the rest; experts,
    each of which has inputs of its own, are not in act-order."""

    def choose(self, arch: Arch, name: str) -> str:
        chosen, shape = super().choose(arch, name), arch.shapes()[name]
        if len(shape) > 2:
            chosen = chosen.removesuffix(ACT)
        parts = next((p for p in of_checkpoint(arch).values() if name in p), (name,))
        whole = all(arch.shapes()[part][-2] % 8 == 0 for part in parts)
        return chosen if whole or QUANT_TYPES[chosen].is_float else "F16"


def preset(base: str) -> LinearPreset:
    """The embedding and the head stay float16, as in every published folder."""
    return LinearPreset(base, {}, "F16", embedding="F16")
