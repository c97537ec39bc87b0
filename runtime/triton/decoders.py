"""What a layout's bytes mean on a card: one short Triton function a layout, in one registry.

A block is cut into planes when a weight is loaded, so that each plane lies aligned and is read in
wide pieces: plane p of all blocks of all rows, one after another. A block is also a number of equal
chunks: LANES bytes of codes, or numbers where a code takes a byte or more. The fields of a lane are
the weights whose low bits share its byte. A decode function is given

    planes   the planes' pointers, in file order
    block    number of the block in the whole weight, int32 (rows, chunks, 1)
    part     number of the chunk in its block, int32 (1, chunks, 1)
    lane     number of the lane in its chunk, int32 (1, 1, LANES)
    field    which weight of the lane; known when the kernel is compiled
    PER      chunks in a block, likewise

and returns the weight, float32 (rows, chunks, LANES), and its column within the block, the same in
every row: (1, chunks, LANES) or fewer. A thread holds whole chunks, and works out once a chunk what
does not change from lane to lane. The layouts are drawn in `runtime/quant_types/`; a new one needs
its decode function here, nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

from runtime.quant_types import QUANT_TYPES
from runtime.quant_types.points import POINTS


@dataclass(frozen=True)
class Plane:
    """Neighbouring bytes of every block that are read as numbers of one type."""

    width: int
    """Bytes of a block."""
    dtype: str = "uint8"
    """Name of the torch type that they are read as."""


@dataclass(frozen=True)
class Decoder:
    """How the kernels walk over one layout."""

    decode: Any
    """The Triton function."""
    planes: tuple[Plane, ...]
    """All bytes of a block, in file order."""
    fields: int
    per: int
    """Chunks in a block."""

    @property
    def chunk(self) -> int:
        """Weights in a chunk."""
        return LANES.value * self.fields


DECODERS: dict[str, Decoder] = {}
"""Decoder by the name of its layout; a layout without one is decoded on loading.

The floats have none on purpose: an original that others are judged by is multiplied in float32.
"""

LANES = tl.constexpr(16)
"""A thread reads 16 bytes at once. With more lanes in a chunk than one thread holds, the compiler
repeats all that is worked out once a chunk for every lane."""

HALF = Plane(2, "float16")
TWO_HALVES = Plane(4, "float16")
SINGLE = Plane(4, "float32")


def decodes(*names: str, planes: tuple[Plane, ...], fields: int = 1) -> Callable[[Any], Any]:
    """Register a Triton function as the decoder of some layouts.

    The last plane's width may be 0: it then takes the rest of the block.
    """

    def register(function: Any) -> Any:
        for name in names:
            block = QUANT_TYPES[name]
            rest = block.bytes - sum(plane.width for plane in planes)
            whole = (*planes[:-1], Plane(planes[-1].width or rest, planes[-1].dtype))
            per = block.size // (LANES.value * fields)
            DECODERS[name] = Decoder(function, whole, fields, per)
        return function

    return register


@triton.jit
def number(plane, index):
    """One stored number as float32."""
    return tl.load(plane + index).to(tl.float32)


@triton.jit
def bits(plane, index, shift, count: tl.constexpr):
    """`count` bits of one byte or word from bit `shift` on, int32."""
    return (tl.load(plane + index).to(tl.int32) >> shift) & ((1 << count) - 1)


@decodes("Q4_0", planes=(HALF, Plane(16)), fields=2)
@triton.jit
def q4_0(planes, block, part, lane, field: tl.constexpr, PER: tl.constexpr):
    code = bits(planes[1], block * 16 + lane, 4 * field, 4) - 8
    return number(planes[0], block) * code.to(tl.float32), 16 * field + lane


@decodes("Q4_1", planes=(TWO_HALVES, Plane(16)), fields=2)
@triton.jit
def q4_1(planes, block, part, lane, field: tl.constexpr, PER: tl.constexpr):
    code = bits(planes[1], block * 16 + lane, 4 * field, 4)
    scale, least = number(planes[0], 2 * block), number(planes[0], 2 * block + 1)
    return code.to(tl.float32) * scale + least, 16 * field + lane


@triton.jit
def five_bits(high, low, block, lane, field: tl.constexpr):
    """Codes of Q5_0 and Q5_1, int32: four bits as in Q4_0, the fifth in a bit a weight."""
    fifth = bits(high, block, 16 * field + lane, 1)
    return bits(low, block * 16 + lane, 4 * field, 4) | fifth << 4


@decodes("Q5_0", planes=(HALF, Plane(4, "int32"), Plane(16)), fields=2)
@triton.jit
def q5_0(planes, block, part, lane, field: tl.constexpr, PER: tl.constexpr):
    code = five_bits(planes[1], planes[2], block, lane, field) - 16
    return number(planes[0], block) * code.to(tl.float32), 16 * field + lane


@decodes("Q5_1", planes=(TWO_HALVES, Plane(4, "int32"), Plane(16)), fields=2)
@triton.jit
def q5_1(planes, block, part, lane, field: tl.constexpr, PER: tl.constexpr):
    code = five_bits(planes[1], planes[2], block, lane, field)
    scale, least = number(planes[0], 2 * block), number(planes[0], 2 * block + 1)
    return code.to(tl.float32) * scale + least, 16 * field + lane


@decodes("Q8_0", planes=(HALF, Plane(32, "int8")))
@triton.jit
def q8_0(planes, block, part, lane, field: tl.constexpr, PER: tl.constexpr):
    code = number(planes[1], block * 32 + 16 * part + lane)
    return number(planes[0], block) * code, 16 * part + lane


@triton.jit
def six_bit_pair(words, block, sub):
    """Scale and minimum of a sub-block of Q4_K or Q5_K, float32; see `q4_k.pack_pairs`, 4..15."""
    shift = 8 * (sub % 4)
    scale, least = bits(words, 3 * block, shift, 8), bits(words, 3 * block + 1, shift, 8)
    # of sub-blocks 4..7 the low bits are in the third word, the rest on top of sub-blocks 0..3
    low, split = bits(words, 3 * block + 2, shift, 8), sub >= 4
    scale = tl.where(split, low & 15 | scale >> 6 << 4, scale & 63)
    least = tl.where(split, low >> 4 | least >> 6 << 4, least & 63)
    return scale.to(tl.float32), least.to(tl.float32)


@triton.jit
def line(halves, block, scale, least, code):
    """Weights of Q2_K, Q4_K and Q5_K, float32: d * scale * code - dmin * min."""
    step = number(halves, 2 * block) * scale
    return code.to(tl.float32) * step - number(halves, 2 * block + 1) * least


@decodes("Q4_K", planes=(TWO_HALVES, Plane(12, "int32"), Plane(128)), fields=2)
@triton.jit
def q4_k(planes, block, part, lane, field: tl.constexpr, PER: tl.constexpr):
    pair, within = part // 2, part % 2 * 16 + lane
    scale, least = six_bit_pair(planes[1], block, 2 * pair + field)
    code = bits(planes[2], block * 128 + 16 * part + lane, 4 * field, 4)
    return line(planes[0], block, scale, least, code), 64 * pair + 32 * field + within


@decodes("Q5_K", planes=(TWO_HALVES, Plane(12, "int32"), Plane(32), Plane(128)), fields=2)
@triton.jit
def q5_k(planes, block, part, lane, field: tl.constexpr, PER: tl.constexpr):
    pair, within = part // 2, part % 2 * 16 + lane
    scale, least = six_bit_pair(planes[1], block, 2 * pair + field)
    fifth = bits(planes[2], block * 32 + within, 2 * pair + field, 1)
    code = bits(planes[3], block * 128 + 16 * part + lane, 4 * field, 4) | fifth << 4
    return line(planes[0], block, scale, least, code), 64 * pair + 32 * field + within


@decodes("Q6_K", planes=(Plane(128), Plane(64), Plane(16, "int8"), HALF), fields=4)
@triton.jit
def q6_k(planes, block, part, lane, field: tl.constexpr, PER: tl.constexpr):
    half, side = part // 2, part % 2
    within = 16 * side + lane
    low = bits(planes[0], block * 128 + 64 * half + 32 * (field % 2) + within, 4 * (field // 2), 4)
    high = bits(planes[1], block * 64 + 32 * half + within, 2 * field, 2)
    code = (low | high << 4) - 32
    scale = number(planes[3], block) * number(planes[2], block * 16 + 8 * half + 2 * field + side)
    return code.to(tl.float32) * scale, 128 * half + 32 * field + within


@decodes("Q3_K", planes=(Plane(32), Plane(64), Plane(12), HALF), fields=4)
@triton.jit
def q3_k(planes, block, part, lane, field: tl.constexpr, PER: tl.constexpr):
    half, side = part // 2, part % 2
    within = 16 * side + lane
    low = bits(planes[1], block * 64 + 32 * half + within, 2 * field, 2)
    third = bits(planes[0], block * 32 + within, 4 * half + field, 1)
    code = (low | third << 2) - 4
    # the sub-block's number is 8 * half + 2 * field + side
    nibble = bits(planes[2], block * 12 + 2 * field + side, 4 * half, 4)
    top = bits(planes[2], block * 12 + 8 + 2 * (field % 2) + side, 4 * half + 2 * (field // 2), 2)
    scale = number(planes[3], block) * ((nibble | top << 4) - 32).to(tl.float32)
    return code.to(tl.float32) * scale, 128 * half + 32 * field + within


@decodes("Q2_K", planes=(Plane(16), Plane(64), TWO_HALVES), fields=4)
@triton.jit
def q2_k(planes, block, part, lane, field: tl.constexpr, PER: tl.constexpr):
    half, side = part // 2, part % 2
    within = 16 * side + lane
    code = bits(planes[1], block * 64 + 32 * half + within, 2 * field, 2)
    both = bits(planes[0], block * 16 + 8 * half + 2 * field + side, 0, 8)
    scale, least = (both & 15).to(tl.float32), (both >> 4).to(tl.float32)
    return line(planes[2], block, scale, least, code), 128 * half + 32 * field + within


def eight_points(points: tuple[int, ...]) -> tl.constexpr:
    """Eight signed bytes in one 64-bit number, the first lowest."""
    packed = int.from_bytes(bytes(point & 255 for point in points), "little", signed=True)
    return tl.constexpr(packed)


LOW_POINTS, HIGH_POINTS = eight_points(POINTS[:8]), eight_points(POINTS[8:])


@triton.jit
def point(code):
    """POINTS[code], float32, out of two 64-bit numbers: no memory is read."""
    low, high = tl.full([], LOW_POINTS, tl.int64), tl.full([], HIGH_POINTS, tl.int64)
    eight = tl.where(code < 8, low, high)
    return (eight >> (8 * (code % 8)).to(tl.int64)).to(tl.int8).to(tl.float32)


@decodes("IQ4_NL", planes=(HALF, Plane(16)), fields=2)
@triton.jit
def iq4_nl(planes, block, part, lane, field: tl.constexpr, PER: tl.constexpr):
    code = bits(planes[1], block * 16 + lane, 4 * field, 4)
    return number(planes[0], block) * point(code), 16 * field + lane


@decodes("IQ4_XS", planes=(HALF, Plane(2), Plane(4), Plane(128)), fields=2)
@triton.jit
def iq4_xs(planes, block, part, lane, field: tl.constexpr, PER: tl.constexpr):
    top = bits(planes[1], block * 2 + part // 4, 2 * (part % 4), 2)
    low = bits(planes[2], block * 4 + part // 2, 4 * (part % 2), 4)
    scale = number(planes[0], block) * ((low | top << 4) - 32).to(tl.float32)
    code = bits(planes[3], block * 128 + 16 * part + lane, 4 * field, 4)
    return scale * point(code), 32 * part + 16 * field + lane


SIZES = (32, 64, 128)


@decodes(*(f"INT2_{n}" for n in SIZES), planes=(SINGLE, Plane(1), Plane(0)), fields=2)
@triton.jit
def int2(planes, block, part, lane, field: tl.constexpr, PER: tl.constexpr):
    at, shift = (block * PER + part) * 8 + lane // 2, 4 * (lane % 2) + 2 * field
    code = bits(planes[2], at, shift, 2) - bits(planes[1], block, 0, 8)
    return code.to(tl.float32) * number(planes[0], block), 32 * part + 2 * lane + field


@decodes(*(f"INT2_{n}_SYM" for n in SIZES), planes=(SINGLE, Plane(0)), fields=2)
@triton.jit
def int2_sym(planes, block, part, lane, field: tl.constexpr, PER: tl.constexpr):
    at, shift = (block * PER + part) * 8 + lane // 2, 4 * (lane % 2) + 2 * field
    code = bits(planes[1], at, shift, 2) - 2
    return code.to(tl.float32) * number(planes[0], block), 32 * part + 2 * lane + field


@decodes(*(f"INT4_{n}" for n in SIZES), planes=(SINGLE, Plane(1), Plane(0)), fields=2)
@triton.jit
def int4(planes, block, part, lane, field: tl.constexpr, PER: tl.constexpr):
    code = bits(planes[2], (block * PER + part) * 16 + lane, 4 * field, 4) - bits(
        planes[1], block, 0, 8
    )
    return code.to(tl.float32) * number(planes[0], block), 32 * part + 2 * lane + field


@decodes(*(f"INT4_{n}_SYM" for n in SIZES), planes=(SINGLE, Plane(0)), fields=2)
@triton.jit
def int4_sym(planes, block, part, lane, field: tl.constexpr, PER: tl.constexpr):
    code = bits(planes[1], (block * PER + part) * 16 + lane, 4 * field, 4) - 8
    return code.to(tl.float32) * number(planes[0], block), 32 * part + 2 * lane + field


@decodes(*(f"INT8_{n}" for n in SIZES), planes=(SINGLE, Plane(1), Plane(0)))
@triton.jit
def int8(planes, block, part, lane, field: tl.constexpr, PER: tl.constexpr):
    code = bits(planes[2], (block * PER + part) * 16 + lane, 0, 8) - bits(planes[1], block, 0, 8)
    return code.to(tl.float32) * number(planes[0], block), 16 * part + lane


@decodes(*(f"INT8_{n}_SYM" for n in SIZES), planes=(SINGLE, Plane(0)))
@triton.jit
def int8_sym(planes, block, part, lane, field: tl.constexpr, PER: tl.constexpr):
    code = bits(planes[1], (block * PER + part) * 16 + lane, 0, 8) - 128
    return code.to(tl.float32) * number(planes[0], block), 16 * part + lane
