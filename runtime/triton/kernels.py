"""Kernels that read packed weights; any layout's decode function is compiled into them.

    copy_rows     float32 rows of a weight, for an embedding
    few_tokens    x @ weight.T for one to FEW rows of x: bound by memory. Every program adds up some
                  rows of the weight; a second token reads them again, but out of the cache
    many_tokens   x @ weight.T for more: bound by arithmetic. A tile of the weight is decoded once
                  for up to MOST_TOKENS tokens and multiplied on the tensor cores

All add in float32. `many_tokens` multiplies in TF32, which has the 10 bits of float16 and the range
of float32: there is no scale and no activation that it cannot hold. No kernel masks its weights:
past the end it reads the last row or chunk again, and masks the activation or the result.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from runtime.triton.decoders import LANES, Decoder

FEW = 4
"""Rows of x up to which the product is bound by reading the weight."""

CHUNKS_A_PROGRAM = 128
"""Chunks that a program of `few_tokens` or `copy_rows` decodes at a time: one a thread."""

MOST_TOKENS, ROWS, CHUNKS = 64, 64, 2
"""Tile of `many_tokens`: tokens, rows of the weight, and chunks a step."""


@triton.jit
def weights(
    planes, first, chunk, chunks, field: tl.constexpr, decode: tl.constexpr, FIELDS: tl.constexpr,
    PER: tl.constexpr,
):  # fmt: skip
    """One field of some chunks of each row: weights, their columns, and whether they exist.

    `first` (rows, 1, 1) is the first block of each row, `chunk` (1, n, 1) counts in the row.
    Weights are (rows, n, LANES), columns (1, n, LANES), and existence (1, n, 1).
    """
    inside = chunk < chunks
    chunk = tl.minimum(chunk, chunks - 1)
    lane = tl.arange(0, LANES)[None, None, :]
    weight, within = decode(planes, first + chunk // PER, chunk % PER, lane, field, PER)
    return weight, chunk // PER * (PER * LANES * FIELDS) + within, inside


@triton.jit
def copy_rows(
    out, ids, planes, chunks, decode: tl.constexpr, FIELDS: tl.constexpr,
    PER: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """out (ids, cols) = the rows `ids` of a weight; a program writes CHUNKS chunks of one row."""
    place = tl.program_id(0).to(tl.int64)
    first = tl.load(ids + place).to(tl.int32) * (chunks // PER)
    chunk = tl.program_id(1) * CHUNKS + tl.arange(0, CHUNKS)[None, :, None]
    row = out + place * (chunks * LANES * FIELDS)
    for field in tl.static_range(FIELDS):
        weight, column, inside = weights(planes, first, chunk, chunks, field, decode, FIELDS, PER)
        tl.store(row + column, weight, mask=inside)


@triton.jit(do_not_specialize=["tokens"])
def few_tokens(
    out, x, planes, tokens, rows, chunks, decode: tl.constexpr, FIELDS: tl.constexpr,
    PER: tl.constexpr, ROWS: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """out (tokens, rows) = x (tokens, cols) @ weight (rows, cols).T; ROWS results a program.

    Programs of the same rows and different tokens are neighbours: they share the cache.
    """
    token = tl.program_id(0) % tokens
    row = tl.program_id(0) // tokens * ROWS + tl.arange(0, ROWS)
    first = (tl.minimum(row, rows - 1) * (chunks // PER))[:, None, None]
    x += token.to(tl.int64) * (chunks * LANES * FIELDS)
    total = tl.zeros([ROWS, CHUNKS, LANES], tl.float32)
    for start in range(0, chunks, CHUNKS):
        chunk = start + tl.arange(0, CHUNKS)[None, :, None]
        for field in tl.static_range(FIELDS):
            weight, column, inside = weights(
                planes, first, chunk, chunks, field, decode, FIELDS, PER
            )
            total += weight * tl.load(x + column, mask=inside, other=0.0)
    result = tl.sum(tl.reshape(total, [ROWS, CHUNKS * LANES]), axis=1)
    tl.store(out + token.to(tl.int64) * rows + row, result, mask=row < rows)


@triton.jit(do_not_specialize=["tokens"])
def many_tokens(
    out, x, planes, tokens, rows, chunks, decode: tl.constexpr, FIELDS: tl.constexpr,
    PER: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """out (tokens, rows) = x (tokens, cols) @ weight (rows, cols).T, a tile a program.

    One field of CHUNKS chunks is one step of the product. Its columns are not neighbours, which
    does not matter as long as x is read in the same order.
    """
    tiles = tl.cdiv(tokens, TOKENS)
    row = tl.program_id(0) // tiles * ROWS + tl.arange(0, ROWS)
    token = tl.program_id(0) % tiles * TOKENS + tl.arange(0, TOKENS)
    first = (tl.minimum(row, rows - 1) * (chunks // PER))[:, None, None]
    from_x = x + tl.minimum(token, tokens - 1).to(tl.int64) * (chunks * LANES * FIELDS)
    total = tl.zeros([ROWS, TOKENS], tl.float32)
    for start in range(0, chunks, CHUNKS):
        chunk = start + tl.arange(0, CHUNKS)[None, :, None]
        for field in tl.static_range(FIELDS):
            weight, column, inside = weights(
                planes, first, chunk, chunks, field, decode, FIELDS, PER
            )
            values = tl.load(from_x[:, None, None] + column, mask=inside, other=0.0)
            weight = tl.reshape(weight, [ROWS, CHUNKS * LANES])
            values = tl.reshape(values, [TOKENS, CHUNKS * LANES])
            total = tl.dot(weight, tl.trans(values), total, input_precision="tf32")
    place = out + token.to(tl.int64)[None, :] * rows + row[:, None]
    tl.store(place, total, mask=(row < rows)[:, None] & (token < tokens)[None, :])


Planes = tuple[torch.Tensor, ...]


def decoded(decoder: Decoder, planes: Planes, ids: torch.Tensor, cols: int) -> torch.Tensor:
    """Rows `ids` (n,), int64, of a weight -> float32 (n, cols)."""
    out = torch.empty(len(ids), cols, device=ids.device)
    chunks = cols // decoder.chunk
    size = tile(chunks, CHUNKS_A_PROGRAM)
    if len(ids):
        grid = (len(ids), triton.cdiv(chunks, size))
        copy_rows[grid](out, ids, planes, chunks, **compiled_in(decoder), CHUNKS=size)
    return out


def product(decoder: Decoder, planes: Planes, x: torch.Tensor, rows: int) -> torch.Tensor:
    """x (tokens, cols), float32 and contiguous, @ weight (rows, cols).T -> (tokens, rows)."""
    tokens, cols = x.shape
    out = torch.empty(tokens, rows, device=x.device)
    if not tokens:
        return out
    chunks = cols // decoder.chunk
    kernel = few_tokens if tokens <= FEW else many_tokens
    tiles = few_tiles(rows, chunks) if tokens <= FEW else many_tiles(tokens)
    grid = (triton.cdiv(rows, tiles["ROWS"]) * triton.cdiv(tokens, tiles.get("TOKENS", 1)),)
    kernel[grid](out, x, planes, tokens, rows, chunks, **compiled_in(decoder), **tiles)
    return out


def few_tiles(rows: int, chunks: int) -> dict[str, int]:
    """Rows and chunks that a program of `few_tokens` decodes at a time.

    A warp goes along a row; the program's other warps take other rows, which share its x.
    """
    along = tile(chunks, CHUNKS_A_PROGRAM // 4)
    return {"ROWS": tile(rows, CHUNKS_A_PROGRAM // along), "CHUNKS": along}


def many_tiles(tokens: int) -> dict[str, int]:
    """The tile of `many_tokens`; 16 tokens are the fewest that tensor cores multiply."""
    tokens = max(16, tile(tokens, MOST_TOKENS))
    # with a third stage of the pipeline shared memory has room for half as many programs
    return {"TOKENS": tokens, "ROWS": ROWS, "CHUNKS": CHUNKS, "num_stages": 2}


def tile(needed: int, most: int) -> int:
    """The least power of two that holds `needed`, or `most`."""
    return min(most, triton.next_power_of_2(needed))


def compiled_in(decoder: Decoder) -> dict[str, Any]:
    """What of a layout becomes part of a kernel."""
    return {"decode": decoder.decode, "FIELDS": decoder.fields, "PER": decoder.per}
