// F32, F16 and BF16: the values themselves, little-endian.
//
// Ladder of F16: 1 bit by bit, 2 f16c (with avx2).
#include "layouts.h"

#include <cstring>

#include "../numbers.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace KERNELS {

static void decode_f32(const uint8_t* row, int cols, float* out) {
    memcpy(out, row, sizeof(float) * (size_t)cols);
}

static void decode_f16(const uint8_t* __restrict row, int cols, float* __restrict out) {
    int col = 0;
#if defined(__F16C__)
    for (; col + 8 <= cols; col += 8) {
        const __m128i halves = _mm_loadu_si128((const __m128i*)(row + 2 * col));
        _mm256_storeu_ps(out + col, _mm256_cvtph_ps(halves));
    }
#endif
    for (; col < cols; col++) out[col] = load_half(row + 2 * col);
}

static void decode_bf16(const uint8_t* __restrict row, int cols, float* __restrict out) {
    for (int col = 0; col < cols; col++) out[col] = load_bfloat(row + 2 * col);
}

#if defined(__AVX512BF16__)
// The last columns that fill no register, and zeros after them.
static inline __m512i load_last(const uint8_t* row, int count) {
    return _mm512_maskz_loadu_epi16((__mmask32)((1ull << count) - 1), row);
}

static inline __m512i bfloats_of_halves(__m512i halves) {
    const __m512 low = _mm512_cvtph_ps(_mm512_castsi512_si256(halves));
    const __m512 high = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1));
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

static void copy_bfloat(const uint8_t* row, int cols, ptrdiff_t stride, uint16_t* out) {
    for (int col = 0; col < cols; col += 32, out += stride) {
        const int count = cols - col < 32 ? cols - col : 32;
        _mm512_storeu_si512(out, load_last(row + 2 * col, count));
    }
}

static void round_halves(const uint8_t* row, int cols, ptrdiff_t stride, uint16_t* out) {
    for (int col = 0; col < cols; col += 32, out += stride) {
        const int count = cols - col < 32 ? cols - col : 32;
        _mm512_storeu_si512(out, bfloats_of_halves(load_last(row + 2 * col, count)));
    }
}
#else
constexpr void (*copy_bfloat)(const uint8_t*, int, ptrdiff_t, uint16_t*) = nullptr;
constexpr void (*round_halves)(const uint8_t*, int, ptrdiff_t, uint16_t*) = nullptr;
#endif

// F32 weights are never rounded.
extern const Layout f32, f16, bf16;
const Layout f32 = {"F32", 1, 4, decode_f32, nullptr, nullptr, nullptr};
const Layout f16 = {"F16", 1, 2, decode_f16, nullptr, round_halves, nullptr};
const Layout bf16 = {"BF16", 1, 2, decode_bf16, nullptr, copy_bfloat, nullptr};

}  // namespace KERNELS
