// Products of many tokens with int8 activations: eight rows side by side, unpacked once.
//
// Each register holds four columns of each of eight rows, so that whole registers of sums are
// scaled at once: 32 columns of eight rows take eight integer products and three float operations.
//
// 128 tokens, 10^9 products a second of one thread of a Sapphire Rapids (512 x 1536 weights):
//                       Q4_K  Q6_K
//   1 row by row           47    28  dot_rows of layouts/product.h, avx_vnni, four tokens at once
//   2 panels, avx2         77    61
//   3 panels, avx_vnni    107    78
//   4 tiles, amx          421   370  see tiles.h
// On 64-bit ARM sdot takes the place of rung 2, and smmla (i8mm), with twice the products, that of
// rung 3; both were run in an emulator, which tells no speed.
#pragma once

#include "kernels.h"
#include "wide.h"

namespace KERNELS {

#if defined(__AVX2__) || defined(__ARM_FEATURE_DOTPROD)
#define HAS_PANELS 1

// out (n, rows) from `row` on, for the panel's first `height` rows and all activations.
void multiply_panel(const Panel& panel, const Quantized& x, int rows, int row, int height,
                    float* out);
#endif

}  // namespace KERNELS
