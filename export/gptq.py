"""Write a GPTQ folder (version 1 of the format), which vLLM, SGLang and transformers load.

Of a linear (N, K) with b bits and groups of g columns, as AutoGPTQ packs it:

    qweight  int32 (K b / 32, N)      32 / b codes of a column in a word, lowest bits first
    qzeros   int32 (K / g, N b / 32)  zero points less 1, packed along N alike
    scales   float16 (K / g, N)
    g_idx    int32 (K,)               the group of each column: k // g, but for act-order

weight[n, k] = (code - zero) * scale, those of group g_idx[k]. The embedding and the head are
float16. Linears that differ from the rest have a line under `dynamic`, which GPTQModel and vLLM
read.
"""

from collections import Counter
from typing import Any

import numpy as np

from export import genai
from export.base import Container
from export.joined import of_checkpoint
from export.packed import (
    FLOATS,
    USAGE,
    Modules,
    Packing,
    Types,
    maker,
    model_notes,
    nothing_packed,
    provenance,
)
from export.packed_presets import preset
from export.packed_stated import stated
from export.shard_hashes import verify
from export.shards import Array
from runtime.errors import UnsupportedError
from runtime.packed_folders import GPTQ
from runtime.quant_types import QuantType
from runtime.quant_types.bits import pack_fields
from runtime.quant_types.onnx_int import OnnxInt
from runtime.tensor import Shape


def arrays(stem: str, shape: Shape, qtype: OnnxInt) -> list[Array]:
    """What is stored of a linear of this shape (N, K)."""
    rows, cols = shape
    bits, groups = qtype.code_bits, cols // qtype.size
    return [
        Array(f"{stem}.g_idx", "I32", (cols,)),
        Array(f"{stem}.qweight", "I32", (cols * bits // 32, rows)),
        Array(f"{stem}.qzeros", "I32", (groups, rows * bits // 32)),
        Array(f"{stem}.scales", "F16", (groups, rows)),
    ]


def values(qtype: OnnxInt, data: np.ndarray, order: np.ndarray | None) -> list[np.ndarray]:
    """The values of those arrays, of records (N, row bytes)."""
    codes, scales, _ = qtype.split(data)
    rows, groups = scales.shape
    # four bytes of a row are a word: codes are packed along K in both layouts
    words = codes.reshape(rows, -1).view("<i4")
    group_of = np.arange(groups * qtype.size, dtype="<i4") // qtype.size
    if order is not None:
        places = np.argsort(order)  # where each column is packed
        columns = qtype.unpack(data)[0].astype(np.uint8)[:, places]
        words, group_of = _packed(columns, qtype.code_bits), group_of[places]
    zeros = qtype.zero_points(data)
    if why := refuses(qtype, data):
        raise UnsupportedError(f"a weight {why}")
    return [group_of, words.T, _packed(zeros.T - 1, qtype.code_bits), scales.T]


def refuses(qtype: QuantType, data: np.ndarray) -> str:
    """Why rows (N, row bytes) cannot be stored; "" where they can."""
    if not isinstance(qtype, OnnxInt) or qtype.zero_points(data).all():
        return ""
    return (
        "has a zero point of 0, which GPTQ stores as -1 and its readers read in two ways; choose "
        "--to awq:int4, or the symmetric --to gptq:int4."
    )


def _packed(numbers: np.ndarray, bits: int) -> np.ndarray:
    """uint8 (rows, cols) of 4 or 8 bits -> int32 (rows, cols * bits / 32)."""
    return np.ascontiguousarray(pack_fields(numbers, bits, 1)).view("<i4")


def config(types: Types, modules: Modules, version: str) -> dict[str, Any]:
    """quantization_config by an edgequant of this version: what most linears have, a line for each
    that differs."""
    packed = [_facts(qtype) for qtype in types.values() if isinstance(qtype, OnnxInt)]
    if not packed:
        raise nothing_packed()
    usual = dict(Counter(tuple(facts.items()) for facts in packed).most_common(1)[0][0])
    start = ".*" if modules.beside else ""
    dynamic: dict[str, dict[str, Any]] = {f"-:{name}": {} for name in modules.beside}
    for name, qtype in types.items():
        pattern = start + modules.linears[name].replace(".", r"\.").replace("{expert}", r"\d+")
        if not isinstance(qtype, OnnxInt):
            dynamic[f"-:{pattern}$"] = {}
        elif (facts := _facts(qtype)) != usual:
            dynamic[f"+:{pattern}$"] = facts
    return {
        "quant_method": "gptq",
        "checkpoint_format": "gptq",
        **usual,
        "desc_act": any(qtype.ordered for qtype in types.values()),
        "static_groups": False,
        "true_sequential": True,
        "damp_percent": 0.01,
        "lm_head": False,
        "meta": {"quantizer": [f"edgequant:{version}"]},
        **({"dynamic": dynamic} if dynamic else {}),
    }


def _facts(qtype: OnnxInt) -> dict[str, Any]:
    return {"bits": qtype.code_bits, "group_size": qtype.size, "sym": qtype.symmetric}


def files(found: dict[str, Any]) -> dict[str, bytes]:
    """AutoGPTQ reads quantize_config.json, transformers config.json: the same is in both."""
    return {"quantize_config.json": genai.json_bytes(found)}


def _packs(qtype: QuantType) -> bool:
    """2 bits, which the format has too, are run by few of its readers."""
    return isinstance(qtype, OnnxInt) and qtype.half and qtype.code_bits > 2


_packing = Packing(("g_idx", "qweight", "qzeros", "scales"), arrays, values, config, files)

Container(
    GPTQ,
    suffix="-gptq",
    widest="F16",
    holds=lambda qtype: _packs(qtype) or qtype.name in FLOATS,
    refuses=refuses,
    presets={
        "int4": preset("INT4_128_SYM_F16"),
        "int4-64": preset("INT4_64_SYM_F16"),
        "int4-32": preset("INT4_32_SYM_F16"),
        "int4-asym": preset("INT4_128_F16"),
        "int4-64-asym": preset("INT4_64_F16"),
        "int4-32-asym": preset("INT4_32_F16"),
        "int8": preset("INT8_128_SYM_F16"),
        "int8-32": preset("INT8_32_SYM_F16"),
        "int4-act": preset("INT4_128_SYM_F16_ACT"),
        "int4-64-act": preset("INT4_64_SYM_F16_ACT"),
        "int4-32-act": preset("INT4_32_SYM_F16_ACT"),
    },
    write=_packing.write,
    size=_packing.size,
    joined=lambda arch: of_checkpoint(arch).values(),
    mixes=lambda qtype: (
        qtype.name == "F16"
        or isinstance(qtype, OnnxInt)
        and (qtype.symmetric and not qtype.ordered)
    ),
    fused=True,
    table_type="F16",
    tower="F16",
    model_notes=model_notes,
    provenance=provenance,
    maker=maker,
    stated=stated,
    verify=verify,
    usage=USAGE,
)
