"""Type numbers of GGUF: which layout reads each, and why there is none for the others."""

from runtime.errors import UnsupportedError
from runtime.quant_types import QUANT_TYPES, QuantType
from runtime.quant_types.read_only import READ_ONLY

REMOVED = {4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8"} | {
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}
"""Types that llama.cpp once had."""

NO_WEIGHTS = {9: "Q8_1", 15: "Q8_K", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64"}
"""Types that llama.cpp knows and multiplies no activations with."""


def layout(number: int, where: str) -> QuantType:
    """The layout of a type number.

    Raises UnsupportedError for one that no reader has; `where` begins its sentence, such as "x.gguf
    stores 'output.weight'".
    """
    for qtype in (*QUANT_TYPES.values(), *READ_ONLY.values()):
        if qtype.ggml_type == number:
            return qtype
    if number in REMOVED:
        why = f"{REMOVED[number]}, which llama.cpp no longer reads; get the model in a current type"
    elif number in NO_WEIGHTS:
        why = f"{NO_WEIGHTS[number]}, in which llama.cpp has no weights; convert the model again"
    else:
        why = (
            f"GGUF type {number}, which llama.cpp does not know; run it with the program that "
            "made it, or get the model in another type"
        )
    raise UnsupportedError(f"{where} as {why}.")
