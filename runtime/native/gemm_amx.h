// Products of many tokens in bfloat16, on AMX: tiles of 16 x 32 weights and 16 activations.
//
// Weights are decoded and rounded to bfloat16 once for up to TOKENS activations; sums are float32.
// The error is a rounding of 2^-9 in each factor, below that of int8 activations.
//
// 512 tokens, Q4_K 1536 x 1536, one thread of a Sapphire Rapids: 663 * 10^9 products a second.
// The tile products alone do 1,788 from registers, and 1,083 from the caches with their sums in the
// second level. The rest is decoding (10%), writing the transposed sums (9%) and packing (7%).
#pragma once

#include "kernels.h"

constexpr int TILE = 16;         // rows or activations of a tile
constexpr int TILE_COLS = 32;    // columns of a tile
constexpr int TILE_SIZE = 512;   // numbers of a tile of weights or activations: 1 KiB
constexpr int DEPTH = 16;        // tiles side by side of a panel: 512 columns, 32 KiB, fit L1
constexpr int GROUP_ROWS = 256;  // rows whose sums are kept at a time
constexpr int TOKENS = 512;      // activations multiplied at a time; their sums stay in L2
constexpr int SCRATCH_FLOATS = GROUP_ROWS * TOKENS + DEPTH * TILE_SIZE;

namespace KERNELS {

#if defined(__AMX_BF16__)
// Activations 16 * tile .. 16 * tile + 15 of x (n, cols), those past n as zeros, for the product:
// cols / 32 (rounded up) tiles of [column pair 16][activation 16][2].
void pack_activations(const float* x, int n, int cols, int tile, uint16_t* packed);

// Rows start..stop of the packed rows against n <= TOKENS packed activations: out (n, rows).
// scratch: SCRATCH_FLOATS floats, aligned to 64 bytes.
void gemm_amx(const Layout& layout, const uint8_t* data, int rows, int cols, int start, int stop,
              const uint16_t* packed, int n, float* scratch, float* out);
#endif

}  // namespace KERNELS
