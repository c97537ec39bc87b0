// F32, F16 and BF16: the values themselves, little-endian.
//
// Ladder of F16: 1 bit by bit, 2 f16c (with avx2).
#include <cstring>

#include "../float16.h"
#include "layouts.h"

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

// Floats are never rounded: an original, which others are judged by, is multiplied in float32.
extern const Layout f32, f16, bf16;
const Layout f32 = {"F32", 1, 4, decode_f32, nullptr, nullptr, nullptr, 0, 0, false};
const Layout f16 = {"F16", 1, 2, decode_f16, nullptr, nullptr, nullptr, 0, 0, false};
const Layout bf16 = {"BF16", 1, 2, decode_bf16, nullptr, nullptr, nullptr, 0, 0, false};

}  // namespace KERNELS
