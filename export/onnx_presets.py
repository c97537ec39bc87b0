"""Which type each tensor of an ONNX folder gets: one for all linears, 8 bits for the head."""

from export.mixture import Preset


def _preset(base: str, head: str = "INT8_32") -> Preset:
    return Preset(base, {}, head, embedding=head)


def _half(preset: Preset) -> Preset:
    """The same with scales in float16."""
    return _preset(f"{preset.base}_F16", f"{preset.head}_F16")


PRESETS: dict[str, Preset] = {
    "int4": _preset("INT4_32"),
    "int4-64": _preset("INT4_64"),
    "int4-128": _preset("INT4_128"),
    "int4-sym": _preset("INT4_32_SYM"),
    "int4-64-sym": _preset("INT4_64_SYM"),
    "int4-128-sym": _preset("INT4_128_SYM"),
    "int8": _preset("INT8_32"),
    "fp32": _preset("F32", head="F32"),
}

HALF_PRESETS: dict[str, Preset] = {
    name: _half(preset) for name, preset in PRESETS.items() if name != "fp32"
}
