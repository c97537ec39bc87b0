// See syrk_bf16.h. Eight rows by 48 columns of sums are in registers; the panel of columns stays in
// the second-level cache while rows pass by.
#include "syrk_bf16.h"

#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)
#include <immintrin.h>

namespace KERNELS {

constexpr int ROWS_AT_ONCE = 8, WIDTH = SYRK_COLS / 16;  // registers across
static_assert(SYRK_COLS % ROWS_AT_ONCE == 0 && SYRK_COLS % 16 == 0);

static __mmask16 mask_of(int count) {
    return count >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << (count > 0 ? count : 0)) - 1);
}

// 16 numbers as bfloat16 in the lower halves of 16 lanes.
static __m512i rounded(const float* from, __mmask16 mask) {
    return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, from)));
}

void pack_pairs(const float* x, ptrdiff_t stride, int tokens, int cols, int first,
                uint32_t* packed) {
    for (int token = 0; token < tokens; token += 2) {
        const float* even = x + token * stride + first;
        for (int part = 0; part < WIDTH; part++, packed += 16) {
            const __mmask16 mask = mask_of(cols - first - 16 * part);
            const __mmask16 odd_mask = token + 1 < tokens ? mask : (__mmask16)0;
            const __m512i low = rounded(even + 16 * part, mask);
            const __m512i high = rounded(even + stride + 16 * part, odd_mask);
            _mm512_storeu_si512(packed, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
        }
    }
}

// ROWS_AT_ONCE rows.
static void add_rows(const uint32_t* a, const uint32_t* b, int pairs, int rows,
                     const __mmask16* masks, float* total, ptrdiff_t stride) {
    __m512 sums[ROWS_AT_ONCE][WIDTH];
    for (int r = 0; r < ROWS_AT_ONCE; r++) {
        for (int c = 0; c < WIDTH; c++) sums[r][c] = _mm512_setzero_ps();
    }
    for (int pair = 0; pair < pairs; pair++, a += SYRK_COLS, b += SYRK_COLS) {
        __m512bh columns[WIDTH];
        for (int c = 0; c < WIDTH; c++) columns[c] = (__m512bh)_mm512_loadu_si512(b + 16 * c);
        for (int r = 0; r < ROWS_AT_ONCE; r++) {
            const __m512bh row = (__m512bh)_mm512_set1_epi32((int)a[r]);
            for (int c = 0; c < WIDTH; c++) {
                sums[r][c] = _mm512_dpbf16_ps(sums[r][c], row, columns[c]);
            }
        }
    }
    for (int r = 0; r < rows && r < ROWS_AT_ONCE; r++, total += stride) {
        for (int c = 0; c < WIDTH; c++) {
            const __m512 old = _mm512_maskz_loadu_ps(masks[c], total + 16 * c);
            _mm512_mask_storeu_ps(total + 16 * c, masks[c], _mm512_add_ps(old, sums[r][c]));
        }
    }
}

void syrk_bf16(const uint32_t* a, const uint32_t* b, int pairs, int rows, int cols, float* total,
               ptrdiff_t stride) {
    __mmask16 masks[WIDTH];
    for (int c = 0; c < WIDTH; c++) masks[c] = mask_of(cols - 16 * c);
    for (int row = 0; row < rows; row += ROWS_AT_ONCE) {
        add_rows(a + row, b, pairs, rows - row, masks, total + row * stride, stride);
    }
}

}  // namespace KERNELS
#endif
