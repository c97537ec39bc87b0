"""Kernels that read packed weights; any layout's decode function is compiled into them.

    copy_rows     float32 rows of a weight, for an embedding
    few_tokens    x @ weight.T for one to FEW rows of x: bound by memory, every program adds up some
                  rows of the weight; a token reads the weight again, most of it out of the cache
    many_tokens   x @ weight.T for more: bound by arithmetic, tiles of the weight are decoded once for
                  TOKENS tokens and multiplied on the tensor cores

All add in float32. `many_tokens` multiplies in TF32, which has float16's 10 bits and float32's range:
a scale or an activation that float16 could not hold costs nothing. No kernel masks its weights: past
the end it reads the last row or chunk again, and the activation or the result is masked.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from runtime.triton.decoders import Decoder

FEW = 4
"""Rows of x up to which the product is bound by reading the weight."""

LANES_A_PROGRAM = 2048
"""Lanes that a program of `few_tokens` and `copy_rows` decodes at a time: 16 a thread."""

TOKENS, ROWS, DEPTH = 64, 64, 32
"""Tile of `many_tokens`: tokens, rows of the weight, and lanes (of each field) a step."""


@triton.jit
def columns_of(chunk, within, chunk_size: tl.constexpr, PER: tl.constexpr):
    """Columns of the weights whose column within the block is known; `chunk` counts in the row."""
    return chunk // PER * (PER * chunk_size) + within


@triton.jit
def copy_rows(
    out, ids, planes, chunks, decode: tl.constexpr, LANES: tl.constexpr, FIELDS: tl.constexpr,
    PER: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """out (ids, cols) = the rows `ids` of a weight; a program writes CHUNKS chunks of one row."""
    place = tl.program_id(0).to(tl.int64)
    first = tl.load(ids + place).to(tl.int32) * chunks
    chunk = tl.program_id(1) * CHUNKS + tl.arange(0, CHUNKS)[None, :, None]
    lane = tl.arange(0, LANES)[None, None, :]
    inside = chunk < chunks
    chunk = tl.minimum(chunk, chunks - 1)
    row = out + place * (chunks * LANES * FIELDS)
    for field in tl.static_range(FIELDS):
        weight, within = decode(planes, first + chunk, lane, field, PER)
        tl.store(row + columns_of(chunk, within, LANES * FIELDS, PER), weight, mask=inside)


@triton.jit
def few_tokens(
    out, x, planes, tokens, rows, chunks, decode: tl.constexpr, LANES: tl.constexpr,
    FIELDS: tl.constexpr, PER: tl.constexpr, ROWS: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """out (tokens, rows) = x (tokens, cols) @ weight (rows, cols).T; ROWS results a program.

    Programs of one tile of rows and different tokens are neighbours: they share the cache.
    """
    token = tl.program_id(0) % tokens
    row = tl.program_id(0) // tokens * ROWS + tl.arange(0, ROWS)
    first = (tl.minimum(row, rows - 1) * chunks)[:, None, None]
    lane = tl.arange(0, LANES)[None, None, :]
    x += token * (chunks * LANES * FIELDS)
    total = tl.zeros([ROWS, CHUNKS, LANES], tl.float32)
    for start in range(0, chunks, CHUNKS):
        chunk = start + tl.arange(0, CHUNKS)[None, :, None]
        inside = chunk < chunks
        chunk = tl.minimum(chunk, chunks - 1)
        for field in tl.static_range(FIELDS):
            weight, within = decode(planes, first + chunk, lane, field, PER)
            column = columns_of(chunk, within, LANES * FIELDS, PER)
            total += weight * tl.load(x + column, mask=inside, other=0.0)
    result = tl.sum(tl.reshape(total, [ROWS, CHUNKS * LANES]), axis=1)
    tl.store(out + token * rows + row, result, mask=row < rows)


@triton.jit
def many_tokens(
    out, x, planes, tokens, rows, chunks, decode: tl.constexpr, LANES: tl.constexpr,
    FIELDS: tl.constexpr, PER: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr,
    CHUNKS: tl.constexpr,
):  # fmt: skip
    """out (tokens, rows) = x (tokens, cols) @ weight (rows, cols).T, a tile a program.

    One field of CHUNKS chunks is one step of the product: its columns are not neighbours, which does
    not matter as long as x is read in the same order.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    first = (tl.minimum(row, rows - 1) * chunks)[:, None, None]
    start_of_x = (x + tl.minimum(token, tokens - 1) * (chunks * LANES * FIELDS))[:, None, None]
    lane = tl.arange(0, LANES)[None, None, :]
    total = tl.zeros([ROWS, TOKENS], tl.float32)
    for start in range(0, chunks, CHUNKS):
        chunk = start + tl.arange(0, CHUNKS)[None, :, None]
        inside = chunk < chunks
        chunk = tl.minimum(chunk, chunks - 1)
        for field in tl.static_range(FIELDS):
            weight, within = decode(planes, first + chunk, lane, field, PER)
            column = columns_of(chunk, within, LANES * FIELDS, PER)
            values = tl.load(start_of_x + column, mask=inside, other=0.0)
            weight = tl.reshape(weight, [ROWS, CHUNKS * LANES])
            values = tl.reshape(values, [TOKENS, CHUNKS * LANES])
            total = tl.dot(weight, tl.trans(values), total, input_precision="tf32")
    place = out + token[None, :] * rows + row[:, None]
    tl.store(place, total, mask=(row < rows)[:, None] & (token < tokens)[None, :])


Planes = tuple[torch.Tensor, ...]


def decoded(decoder: Decoder, planes: Planes, ids: torch.Tensor, cols: int) -> torch.Tensor:
    """Rows `ids` (n,) of a weight, float32 (n, cols)."""
    out = torch.empty(len(ids), cols, device=ids.device)
    chunks = cols // decoder.chunk
    at_once = tile(chunks, LANES_A_PROGRAM // decoder.lanes)
    if len(ids):
        grid = (len(ids), triton.cdiv(chunks, at_once))
        copy_rows[grid](out, ids, planes, chunks, **compiled_in(decoder), CHUNKS=at_once)
    return out


def product(decoder: Decoder, planes: Planes, x: torch.Tensor, rows: int) -> torch.Tensor:
    """x (tokens, cols), float32 and contiguous, @ weight (rows, cols).T -> float32."""
    tokens, cols = x.shape
    out = torch.empty(tokens, rows, device=x.device)
    if not tokens:
        return out
    sizes = (tokens, rows, cols // decoder.chunk)
    if tokens <= FEW:
        _few(decoder, planes, x, out, sizes)
    else:
        grid = (triton.cdiv(rows, ROWS), triton.cdiv(tokens, TOKENS))
        many_tokens[grid](
            out, x, planes, *sizes, **compiled_in(decoder),
            TOKENS=TOKENS, ROWS=ROWS, CHUNKS=DEPTH // decoder.lanes,
        )  # fmt: skip
    return out


def _few(
    decoder: Decoder,
    planes: Planes,
    x: torch.Tensor,
    out: torch.Tensor,
    sizes: tuple[int, int, int],
) -> None:
    tokens, rows, chunks = sizes
    most = LANES_A_PROGRAM // decoder.lanes
    # up to a quarter of the lanes along the row: the rest are other rows, which share its x
    at_once = tile(chunks, most // 4)
    rows_at_once = tile(rows, most // at_once)
    grid = (tokens * triton.cdiv(rows, rows_at_once),)
    few_tokens[grid](
        out, x, planes, *sizes, **compiled_in(decoder), ROWS=rows_at_once, CHUNKS=at_once
    )


def tile(needed: int, most: int) -> int:
    """The greatest power of two up to `most` that `needed` does not leave half empty."""
    return min(most, triton.next_power_of_2(needed))


def compiled_in(decoder: Decoder) -> dict[str, Any]:
    """What of a layout becomes part of a kernel."""
    return {
        "decode": decoder.decode,
        "LANES": decoder.lanes,
        "FIELDS": decoder.fields,
        "PER": decoder.per,
    }
