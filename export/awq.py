"""Write an AWQ folder ("gemm"), which vLLM, SGLang and transformers load.

Of a linear (N, K) in 4 bits and groups of g columns, as AutoAWQ packs it:

    qweight  int32 (K, N / 8)      nibble i of word c is column 8 c + (0, 2, 4, 6, 1, 3, 5, 7)[i]
    qzeros   int32 (K / g, N / 8)  zero points, packed alike
    scales   float16 (K / g, N)

weight[n, k] = (code - zero) * scale. The embedding and the head are float16.
"""

from typing import Any

import numpy as np

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
    one_of,
    provenance,
)
from export.packed_presets import preset
from export.packed_stated import stated
from export.shard_hashes import verify
from export.shards import Array
from runtime.packed_folders import AWQ
from runtime.quant_types.bits import pack_fields, unpack_fields
from runtime.quant_types.onnx_int import OnnxInt
from runtime.tensor import Shape

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Column of each nibble of a word, the lowest first."""


def arrays(stem: str, shape: Shape, qtype: OnnxInt) -> list[Array]:
    """What is stored of a linear of this shape (N, K)."""
    rows, cols = shape
    groups = cols // qtype.size
    return [
        Array(f"{stem}.qweight", "I32", (cols, rows // 8)),
        Array(f"{stem}.qzeros", "I32", (groups, rows // 8)),
        Array(f"{stem}.scales", "F16", (groups, rows)),
    ]


def values(qtype: OnnxInt, data: np.ndarray, order: np.ndarray | None) -> list[np.ndarray]:
    """The values of those arrays, of records (N, row bytes)."""
    quants, scales, _ = qtype.split(data)
    codes = unpack_fields(quants.reshape(len(data), -1), 4, 1)  # (N, K)
    return [_packed(codes.T), _packed(qtype.zero_points(data).T), scales.T]


def _packed(numbers: np.ndarray) -> np.ndarray:
    """uint8 (K, N) of 4 bits -> int32 (K, N / 8)."""
    words = numbers.reshape(len(numbers), -1, 8)[..., ORDER]
    return np.ascontiguousarray(pack_fields(words, 4, 1)).view("<i4")[..., 0]


def config(types: Types, modules: Modules, version: str) -> dict[str, Any]:
    """quantization_config by an edgequant of this version."""
    floats = [name for name, qtype in types.items() if not isinstance(qtype, OnnxInt)]
    kept = [*modules.beside, *(modules.linears[name] for name in floats)]
    return {
        "quant_method": "awq",
        "version": "gemm",
        "bits": one_of(types, lambda qtype: qtype.code_bits, "bits"),
        "group_size": one_of(types, lambda qtype: qtype.size, "groups"),
        "zero_point": True,
        "modules_to_not_convert": kept or None,
        "meta": {"quantizer": [f"edgequant:{version}"]},
    }


_packing = Packing(("qweight", "qzeros", "scales"), arrays, values, config)

Container(
    AWQ,
    suffix="-awq",
    widest="F16",
    holds=lambda qtype: (
        isinstance(qtype, OnnxInt)
        and (qtype.half and qtype.code_bits == 4 and not qtype.ordered)
        or qtype.name in FLOATS
    ),
    presets={
        "int4": preset("INT4_128_F16"),
        "int4-64": preset("INT4_64_F16"),
        "int4-32": preset("INT4_32_F16"),
    },
    write=_packing.write,
    size=_packing.size,
    joined=lambda arch: of_checkpoint(arch).values(),
    mixes=lambda qtype: qtype.name in ("INT4_128_F16", "F16"),
    fused=True,
    table_type="F16",
    tower="F16",
    uniform=True,
    model_notes=model_notes,
    provenance=provenance,
    maker=maker,
    stated=stated,
    verify=verify,
    usage=USAGE,
)
