// Products of many tokens with int8 activations: rows side by side, unpacked once.
//
// A register holds four columns of each of eight rows (sixteen with AVX-512), so that whole
// registers of sums are scaled at once: 32 columns of them take eight integer products and two or
// three float operations. A group of tokens shares each register of weights; their codes lie side
// by side too, so that one pointer leads to all of them.
//
// 512 tokens, 10^9 products a second of one thread of a Zen 4 (1536 x 1536 weights), which can do
// 64 a cycle; `python bench/ladder.py` measures the last three:
//                            Q4_K  Q6_K  Q4_0  Q8_0
//   1 row by row               43    35    50    50  layouts/dot_rows.h, avx512_vnni
//   2 panels, avx2             78    68    88    56  small codes in 16 bits, see gemm_short.h
//   3 panels, avx512          103    81   107    68
//   4 panels, avx512_vnni     132   129   146   139  eight rows and four tokens at once: 76 to 97
// avx_vnni is rung 2 with vpdpbusd; on a Sapphire Rapids it took avx2 from 77 to 107 (Q4_K) and
// from 61 to 78 (Q6_K), before tokens lay side by side. On 64-bit ARM sdot takes the place of rung
// 2, and smmla (i8mm), with twice the products, that of rung 3; both were run in an emulator, which
// tells no speed. AMX has products of its own, see gemm_amx.h.
#pragma once

#include "int8_dot.h"
#include "kernels.h"

namespace KERNELS {

#if defined(__AVX2__) || defined(__ARM_FEATURE_DOTPROD)
#define HAS_PANELS 1

#if defined(__AVX512BW__)
constexpr int PANEL_ROWS = 16, PANEL_TOKENS = 8, PANEL_COLS = 1024;
#elif defined(HAS_SHORTS)
constexpr int PANEL_ROWS = 16, PANEL_TOKENS = 4, PANEL_COLS = 2048;
#else
constexpr int PANEL_ROWS = 8, PANEL_TOKENS = 4, PANEL_COLS = 1024;
#endif

// The panel's columns of a group of activations; see Quantized.
struct Group {
    const int8_t* codes;
    const float *scales, *sums;
    const int32_t* starts;
};

// out (n, rows) from `row` on, for the panel's first `height` rows and all activations: written for
// the first columns, added to for the others.
void gemm_int8(const Panel& panel, const Quantized& x, int rows, int row, int height, float* out);
#endif

}  // namespace KERNELS
