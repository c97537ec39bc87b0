"""Layouts of 256 weights decoded weight by weight, straight from the drawings in their files."""

from collections.abc import Callable

import numpy as np

F32 = np.float32
IQ4_POINTS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def half(block: np.ndarray, at: int) -> np.float32:
    """The float16 at a byte of a block."""
    return F32(block[at : at + 2].view("<f2")[0])


def bits(byte: int, first: int, count: int) -> int:
    """`count` bits of a byte from bit `first` on."""
    return int(byte) >> first & (1 << count) - 1


def q2_k(block: np.ndarray) -> list[np.float32]:
    d, dmin = half(block, 80), half(block, 82)
    out = []
    for i in range(256):
        pair = block[i // 16]
        chunk, inside = divmod(i, 128)
        code = bits(block[16 + 32 * chunk + inside % 32], 2 * (inside // 32), 2)
        scale, least = d * F32(bits(pair, 0, 4)), dmin * F32(bits(pair, 4, 4))
        out.append(scale * F32(code) - least)
    return out


def q3_k(block: np.ndarray) -> list[np.float32]:
    d = half(block, 108)
    out = []
    for i in range(256):
        sub = i // 16
        low = bits(block[96 + sub % 8], 4 * (sub // 8), 4)
        scale = low + 16 * bits(block[104 + sub % 4], 2 * (sub // 4), 2) - 32
        chunk, inside = divmod(i, 128)
        code = bits(block[32 + 32 * chunk + inside % 32], 2 * (inside // 32), 2)
        code += 4 * bits(block[i % 32], i // 32, 1) - 4
        out.append(d * F32(scale) * F32(code))
    return out


def pair(block: np.ndarray, sub: int) -> tuple[int, int]:
    """Scale and min of a sub-block of Q4_K and Q5_K."""
    if sub < 4:
        return bits(block[4 + sub], 0, 6), bits(block[8 + sub], 0, 6)
    scale = bits(block[8 + sub], 0, 4) + 16 * bits(block[sub], 6, 2)
    return scale, bits(block[8 + sub], 4, 4) + 16 * bits(block[4 + sub], 6, 2)


def q4_k(block: np.ndarray) -> list[np.float32]:
    d, dmin = half(block, 0), half(block, 2)
    out = []
    for i in range(256):
        scale, least = pair(block, i // 32)
        chunk, inside = divmod(i, 64)
        code = bits(block[16 + 32 * chunk + inside % 32], 4 * (inside // 32), 4)
        out.append(d * F32(scale) * F32(code) - dmin * F32(least))
    return out


def q5_k(block: np.ndarray) -> list[np.float32]:
    d, dmin = half(block, 0), half(block, 2)
    out = []
    for i in range(256):
        scale, least = pair(block, i // 32)
        chunk, inside = divmod(i, 64)
        code = bits(block[48 + 32 * chunk + inside % 32], 4 * (inside // 32), 4)
        code += 16 * bits(block[16 + i % 32], i // 32, 1)
        out.append(d * F32(scale) * F32(code) - dmin * F32(least))
    return out


def q6_k(block: np.ndarray) -> list[np.float32]:
    d = half(block, 208)
    out = []
    for i in range(256):
        scale = block[192 + i // 16].view(np.int8)
        chunk, inside = divmod(i, 128)
        code = bits(block[64 * chunk + inside % 64], 4 * (inside // 64), 4)
        code += 16 * bits(block[128 + 32 * chunk + inside % 32], 2 * (inside // 32), 2)
        out.append(d * F32(scale) * F32(code - 32))
    return out


def iq4_xs(block: np.ndarray) -> list[np.float32]:
    d = half(block, 0)
    out = []
    for i in range(256):
        sub, inside = divmod(i, 32)
        scale = bits(block[4 + sub // 2], 4 * (sub % 2), 4)
        scale += 16 * bits(block[2 + sub // 4], 2 * (sub % 4), 2) - 32
        code = bits(block[8 + 16 * sub + inside % 16], 4 * (inside // 16), 4)
        out.append(d * F32(scale) * F32(IQ4_POINTS[code]))
    return out


DECODE: dict[str, Callable[[np.ndarray], list[np.float32]]] = {
    "Q2_K": q2_k,
    "Q3_K": q3_k,
    "Q4_K": q4_k,
    "Q5_K": q5_k,
    "Q6_K": q6_k,
    "IQ4_XS": iq4_xs,
}
"""Layout -> function from the bytes of one block to its 256 weights."""
