// Sums of a^T b over tokens in bfloat16 products; see syrk.h.
//
// A register holds a pair of tokens of 16 columns, so that one instruction adds two tokens. The
// error is a rounding of 2^-9 in each factor, which averages out over tokens; sums are float32.
//
// 2,048 tokens, both halves counted, two threads of a Zen 4: 298 * 10^9 operations a second with
// 8,960 columns against 160 by BLAS in float32, 232 against 139 with 1,536, as many with 256. An
// instruction multiplies twice as many numbers as in float32 there. Processors with tiles (AMX)
// have two float32 units a core, which make up for that: they leave the sums to BLAS (not timed).
#pragma once

#include "kernels.h"

namespace KERNELS {

#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)
// Columns first..first + SYRK_COLS - 1 of x (tokens, cols) as pairs of tokens:
// [token pair][column][2], zeros where there is none.
void pack_pairs(const float* x, ptrdiff_t stride, int tokens, int cols, int first,
                uint32_t* packed);

// Add a^T b of two packed panels of `pairs` token pairs to total, of which `rows` rows and `cols`
// columns exist.
void syrk_bf16(const uint32_t* a, const uint32_t* b, int pairs, int rows, int cols, float* total,
               ptrdiff_t stride);
#endif

}  // namespace KERNELS
