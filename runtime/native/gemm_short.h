// Products of a panel where vpmaddubsw is all there is (AVX2, and AVX-512 without VNNI), for codes
// of which `width` products fit in 16 bits: half of the instructions of sums in 32 bits.
//
//   sub-block  16 bits  starts + sum of two products (vpmaddubsw) over width / 4 steps
//   + factor   32 bits  both halves times the integer of the sub-block's scale (vpmaddwd)
//   + x scale  float    a factor and a scale of the activations for every 32 columns
//   + scale    float    once for all columns that share it (`span`), with the offsets
//
// A sum counts from the center of the codes, so that it cannot leave 16 bits at its end, whatever
// it did on its way: see SHORT_SUMS in layouts/block.h. vpmaddubsw itself would cut off above
// 2 * 127 * 127.
//
// The compiler must neither collect products before it adds them nor change the order of sums:
// g++ does both, and then has too few registers (see kernels.cmake). 10^9 products a second of one
// thread of a Zen 3 at 2.9 GHz, Q4_K:
//   158  the steps of a sub-block alone, one register of rows and eight tokens
//   169  two registers and four tokens: the loads of four bytes for each product are the limit
//   128  the same, times the factors and the scales of activations
//   116  the same and the offsets
//    62  before: sums of four steps, scales as floats, one register and four tokens
// In a product of 4480 x 1536 weights with 512 tokens it is 104, before 64.
#pragma once

#include "gemm_int8.h"

namespace KERNELS {

#if defined(HAS_SHORTS)

// WIDTH columns times their factors, for the group's first N tokens.
template <int WIDTH, bool CENTER, int N>
INLINE void multiply_sub_block(const uint8_t* codes, const int16_t* factors, const int8_t* x_codes,
                               const int32_t* starts, Ints<PANEL_ROWS>* dots) {
    constexpr int BYTES = 4 * PANEL_ROWS;
    Shorts<2 * PANEL_ROWS> sums[N];
    for (int i = 0; i < N; i++) {
        sums[i] = CENTER ? shorts_of(repeat<PANEL_ROWS>(starts[i])) : Shorts<2 * PANEL_ROWS>{};
    }
#pragma GCC unroll 8
    for (int four = 0; four < WIDTH; four += 4) {
        const Bytes<BYTES> w = load<BYTES>(codes + PANEL_ROWS * four);
        for (int i = 0; i < N; i++) {
            const Codes<BYTES> xs = repeat_four<BYTES>(x_codes + PANEL_TOKENS * four + 4 * i);
            sums[i] = sums[i] + pairs_of(w, xs);
        }
    }
    const Shorts<2 * PANEL_ROWS> factor = load<2 * PANEL_ROWS>(factors);
    for (int i = 0; i < N; i++) dots[i] = multiply_pairs(sums[i], factor);
}

template <int WIDTH, bool CENTER, bool OFFSETS>
struct Short {
    // `N` is a constant at each call. A sum is made of the same steps whatever N is.
    template <int N>
    static INLINE void multiply(const Panel& panel, Group x, Floats<PANEL_ROWS>* out) {
        const uint8_t* codes = panel.codes;
        const int16_t* factors = panel.factors;
        const float *scales = panel.scales, *offsets = panel.offsets;
        for (int left = panel.cols; left > 0; left -= panel.span, scales += PANEL_ROWS) {
            Floats<PANEL_ROWS> sums[N];
            for (int i = 0; i < N; i++) sums[i] = repeat<PANEL_ROWS>(0.0f);
            for (int more = panel.span; more > 0; more -= 32) {
                Ints<PANEL_ROWS> dots[N];
                multiply_sub_block<WIDTH, CENTER, N>(codes, factors, x.codes, x.starts, dots);
                if constexpr (WIDTH == 16) {
                    Ints<PANEL_ROWS> second[N];
                    multiply_sub_block<WIDTH, CENTER, N>(
                        codes + 16 * PANEL_ROWS, factors + 2 * PANEL_ROWS,
                        x.codes + 16 * PANEL_TOKENS, x.starts + PANEL_TOKENS, second);
                    for (int i = 0; i < N; i++) dots[i] = dots[i] + second[i];
                }
                for (int i = 0; i < N; i++) {
                    const Floats<PANEL_ROWS> scale = repeat<PANEL_ROWS>(x.scales[i]);
                    sums[i] = fused(floats_of(dots[i]), scale, sums[i]);
                }
                codes += 32 * PANEL_ROWS;
                factors += 32 / WIDTH * 2 * PANEL_ROWS;
                x.codes += 32 * PANEL_TOKENS, x.scales += PANEL_TOKENS;
                x.starts += 32 / WIDTH * PANEL_TOKENS;
            }
            const Floats<PANEL_ROWS> scale = load<PANEL_ROWS>(scales);
            for (int i = 0; i < N; i++) out[i] = fused(sums[i], scale, out[i]);
            if constexpr (OFFSETS) {
                for (int more = panel.span; more > 0; more -= WIDTH) {
                    const Floats<PANEL_ROWS> offset = load<PANEL_ROWS>(offsets);
                    for (int i = 0; i < N; i++) {
                        out[i] = fused(offset, repeat<PANEL_ROWS>(x.sums[i]), out[i]);
                    }
                    offsets += PANEL_ROWS, x.sums += PANEL_TOKENS;
                }
            }
        }
    }
};

#endif

}  // namespace KERNELS
