"""Folders of Intel's auto-round: GPTQ's or AWQ's arrays, by other settings.

`packing_format` names what is stored, and `extra_config` the linears that differ: by their names,
or by a pattern found anywhere in them. Names go before patterns, and the first pattern counts.
"""

import re
from typing import Any

import msgspec

from runtime.errors import UnsupportedError
from runtime.quantized.awq import awq
from runtime.quantized.base import MAKING, Arrays, Readable, Settings, modules, parsed, reads
from runtime.quantized.gptq import gptq

STORED = {
    "auto_round:auto_gptq": (gptq, {"checkpoint_format": "gptq"}),
    "auto_round": (gptq, {"checkpoint_format": "gptq_v2"}),
    "auto_round:gptqmodel": (gptq, {"checkpoint_format": "gptq_v2"}),
    "auto_round:auto_awq": (awq, {"version": "gemm"}),
}
"""`packing_format` -> its reader, and how that is told the layout. `auto_round` alone is what zero
points are stored in as they are."""
USUAL = "auto_round:auto_gptq"
"""What a folder without packing_format holds."""
FLOAT_BITS = 16
"""`bits` of a linear that stays in floats."""


class AutoRound(msgspec.Struct):
    """quantization_config of auto-round."""

    bits: int
    group_size: int = 128
    sym: bool | None = None
    data_type: str = "int"
    packing_format: str | None = None
    backend: str | None = None
    """What older versions call the former."""
    extra_config: dict[str, dict[str, Any]] | None = None


@reads("auto-round", "intel/auto-round")
def auto_round(settings: Settings, arrays: Arrays) -> Readable:
    """The arrays of an auto-round checkpoint. Raises EdgequantError for what is not read."""
    found = parsed(settings, AutoRound, MAKING)
    packing = found.packing_format or found.backend or USUAL
    if found.data_type != "int" or packing not in STORED:
        raise UnsupportedError(
            f"auto-round of {found.data_type} packed as {packing!r} is not read, only int as "
            f"{', '.join(STORED)}; export it as one of these, or give the full-precision one."
        )
    read, layout = STORED[packing]
    common = {"bits": found.bits, "group_size": found.group_size}
    more = {"sym": found.sym, "desc_act": False} if read is gptq else {}
    own = {"dynamic": _dynamic(found.extra_config or {}, modules(arrays, "qweight"))}
    return read(common | more | layout | own, arrays)


def _dynamic(extra: dict[str, dict[str, Any]], names: list[str]) -> dict[str, dict[str, Any]]:
    """`extra_config` as `dynamic` of GPTQModel says it, of linears that are packed."""
    exact = {f"{re.escape(key)}$": own for key, own in extra.items() if key in names}
    patterns = {f".*(?:{key})": own for key, own in extra.items() if key not in names}
    packed = {"bits", "group_size", "sym"}
    return {
        pattern: {key: value for key, value in own.items() if key in packed}
        for pattern, own in (exact | patterns).items()
        if own.get("bits") is None or own["bits"] < FLOAT_BITS
    }
