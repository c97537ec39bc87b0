"""Q4_K of GGUF: 256 codes of 4 bits; 8 sub-blocks with a scale and a minimum of 6 bits."""

import numpy as np

from runtime.quant_types.base import Array, Params
from runtime.quant_types.bits import (
    join_records,
    pack_fields,
    pack_float16,
    records,
    unpack_fields,
    unpack_float16,
)
from runtime.quant_types.fitting import RANGES_4
from runtime.quant_types.supers import AffineSuper


def pack_pairs(params: Params) -> np.ndarray:
    """d, dmin, scales and mins -> uint8 (rows, blocks, 16), the head of Q4_K and Q5_K.

    bytes 0..1     d      float16
    bytes 2..3     dmin   float16
    bytes 4..7     low 6 bits: scale j (0..3), high 2 bits: bits 4..5 of scale j+4
    bytes 8..11    low 6 bits: min j, high 2 bits: bits 4..5 of min j+4
    bytes 12..15   low nibble: low bits of scale j+4, high nibble: low bits of min j+4
    """
    scales, mins = (np.asarray(params[key]).astype(np.uint8) for key in ("scales", "mins"))
    (scale, scale4), (least, least4) = (np.split(x, 2, axis=-1) for x in (scales, mins))
    fields = (
        pack_float16(params["d"]),
        pack_float16(params["dmin"]),
        scale | scale4 >> 4 << 6,
        least | least4 >> 4 << 6,
        scale4 & 15 | least4 << 4,
    )
    return np.concatenate(fields, axis=-1)


def unpack_pairs(head: np.ndarray) -> Params:
    """uint8 (rows, blocks, 16) -> d, dmin, scales and mins; see `pack_pairs`."""
    scale, least, both = head[..., 4:8], head[..., 8:12], head[..., 12:16]
    scales = np.concatenate([scale & 63, both & 15 | scale >> 6 << 4], axis=-1)
    mins = np.concatenate([least & 63, both >> 4 | least >> 6 << 4], axis=-1)
    return {
        "d": unpack_float16(head[..., :2]),
        "dmin": unpack_float16(head[..., 2:4]),
        "scales": scales.astype(np.float32),
        "mins": mins.astype(np.float32),
    }


class Q4_K(AffineSuper):
    """weight = d * scale * code - dmin * min, sub-blocks of 32

    bytes 0..15     head  d, dmin, scales and mins: see `pack_pairs`
    bytes 16..143   q     of each 64: low nibble of byte j: weight j, high nibble: weight 32 + j
    """

    name = "Q4_K"
    bytes = 144
    group = 32
    high = 15
    most = 63
    ggml_type = 12
    narrower = "Q5_0"
    ranges = RANGES_4

    def pack(self, codes: Array, params: Params) -> np.ndarray:
        stored = np.asarray(codes).reshape(len(codes), -1, self.size)
        return join_records(pack_pairs(params), pack_fields(stored, bits=4, run=32))

    def unpack(self, data: np.ndarray) -> tuple[np.ndarray, Params]:
        record = records(data, self.bytes)
        codes = unpack_fields(record[..., 16:], bits=4, run=32).astype(np.int32)
        return codes.reshape(len(data), -1), unpack_pairs(record[..., :16])
