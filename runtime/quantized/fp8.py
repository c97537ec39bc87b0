"""FP8 as DeepSeek and Qwen release it, and the forms of it that others write.

For a linear X of (out, in) weights:

    X.weight            F8_E4M3 or F8_E5M2 (out, in)
    X.weight_scale_inv  float; or X.weight_scale: one number, one for each row (out,) or (out, 1),
                        or, with weight_block_size = b, c, one for each block, (out / b, in / c),
                        rounded up: the last blocks are cut short

weight = value * scale, also where the name says that the scale is inverted.
"""

import msgspec

from runtime.errors import UnsupportedError
from runtime.json_types import Size
from runtime.quantized.base import (
    Arrays,
    Readable,
    Settings,
    check_matrix,
    modules,
    original,
    parsed,
    put,
    reads,
    scale_block,
    take,
)
from runtime.quantized.decoded import BYTES, scaled_bytes
from runtime.quantized.integers import FLOATS

SCALES = ("weight_scale_inv", "weight_scale")
HARMLESS = (
    "activation_scheme",
    "dequantize",
    "ignored_layers",
    "kv_cache_scheme",
    "kv_cache_quant_algo",
    "modules_to_convert",
    "modules_to_not_convert",
)
"""How activations are rounded, which are floats here; what is quantized is told by the arrays."""


class Fp8(msgspec.Struct):
    """quantization_config of FP8."""

    fmt: str | None = None
    scale_fmt: str | None = None
    expert_dtype: str | None = None
    weight_block_size: tuple[Size, Size] | None = None


@reads("fp8")
def fp8(settings: Settings, arrays: Arrays) -> Readable:
    """The arrays of an FP8 checkpoint. Raises EdgequantError for what is not read."""
    found = parsed(settings, Fp8, HARMLESS)
    _refuse(found)
    left = dict(arrays)
    for scales in SCALES:
        for module in modules(left, scales):
            parts = take(left, module, ("weight", scales))
            name = f"{module}.weight"
            shape = check_matrix(name, parts["weight"], tuple(BYTES))
            block = scale_block(
                f"{module}.{scales}", parts[scales], shape, found.weight_block_size, FLOATS
            )
            put(left, name, scaled_bytes(parts["weight"], parts[scales], block))
    size = found.weight_block_size
    how = f"with a scale for {size[0]} x {size[1]} weights" if size else "with its scales"
    return Readable(left, [original(f"FP8 {how}, decoded to float32")])


def _refuse(found: Fp8) -> None:
    """Raise UnsupportedError for a layout that is another one."""
    known = {"fmt": ("e4m3", "e5m2", "float8_e4m3fn"), "scale_fmt": ("float", "fp32")}
    known["expert_dtype"] = ("fp8",)
    for key, values in known.items():
        value = getattr(found, key)
        if value not in (None, *values):
            raise UnsupportedError(
                f"FP8 with {key} {value!r} is not read, only {' and '.join(values)}; give the "
                "full-precision checkpoint."
            )
