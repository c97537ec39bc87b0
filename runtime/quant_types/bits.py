"""Bit fields of packed blocks, on numpy: what the `pack` and `unpack` of the GGUF layouts share."""

import numpy as np


def pack_fields(codes: np.ndarray, bits: int, run: int) -> np.ndarray:
    """Codes (..., n), of which the low `bits` are kept, -> uint8 (..., n * bits / 8).

    A chunk is run * 8 / bits weights; field f of its byte j, lowest bits first, is its weight
    f * run + j:

        bits 4, run 16     byte j = code j | code j+16 << 4
        bits 2, run 32     byte j = code j | code j+32 << 2 | code j+64 << 4 | code j+96 << 6
        bits 1, run 1      bit f of byte j = code 8j+f
    """
    low = codes.astype(np.uint8) & ((1 << bits) - 1)
    chunks = low.reshape(*codes.shape[:-1], -1, 8 // bits, run)
    shifted = chunks << _shifts(bits)
    packed: np.ndarray = np.bitwise_or.reduce(shifted, axis=-2)
    return packed.reshape(*codes.shape[:-1], -1)


def unpack_fields(packed: np.ndarray, bits: int, run: int) -> np.ndarray:
    """uint8 (..., n * bits / 8) -> codes (..., n) uint8; see `pack_fields`."""
    chunks = packed.reshape(*packed.shape[:-1], -1, 1, run)
    codes: np.ndarray = (chunks >> _shifts(bits)) & ((1 << bits) - 1)
    return codes.reshape(*packed.shape[:-1], -1)


def _shifts(bits: int) -> np.ndarray:
    return np.arange(0, 8, bits, dtype=np.uint8)[:, None]


def pack_float16(x: np.ndarray) -> np.ndarray:
    """float32 (...) that float16 can hold exactly -> uint8 (..., 2), little-endian."""
    return np.ascontiguousarray(x, "<f2")[..., None].view(np.uint8)


def unpack_float16(packed: np.ndarray) -> np.ndarray:
    """uint8 (..., 2) -> float32 (...)."""
    halves: np.ndarray = np.ascontiguousarray(packed).view("<f2")[..., 0]
    return halves.astype(np.float32)


def records(data: np.ndarray, length: int) -> np.ndarray:
    """Rows of packed bytes -> (rows, blocks, length)."""
    return np.asarray(data).reshape(len(data), -1, length)


def join_records(*fields: np.ndarray) -> np.ndarray:
    """Fields (rows, blocks, bytes) of every block, in file order -> uint8 (rows, row_bytes)."""
    return np.concatenate(fields, axis=-1).reshape(len(fields[0]), -1)
