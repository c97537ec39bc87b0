// Sixty-four codes and sixteen floats at a time: one register of AVX-512.
#pragma once

#include "wide.h"

#if defined(__AVX512BW__)

namespace KERNELS {

typedef uint8_t Bytes64 __attribute__((vector_size(64)));
typedef int32_t Ints16 __attribute__((vector_size(64)));
typedef float Floats16 __attribute__((vector_size(64)));

INLINE Bytes64 load64(const void* address) { return (Bytes64)_mm512_loadu_si512(address); }
INLINE Bytes64 join(Bytes32 low, Bytes32 high) {
    return (Bytes64)_mm512_inserti64x4(_mm512_castsi256_si512((__m256i)low), (__m256i)high, 1);
}
// The same four bytes sixteen times.
INLINE Bytes64 repeat_four16(const int8_t* four) {
    int32_t word;
    memcpy(&word, four, sizeof word);
    return (Bytes64)_mm512_set1_epi32(word);
}
INLINE Ints16 repeat_int16(int32_t value) { return (Ints16)_mm512_set1_epi32(value); }
INLINE Floats16 repeat16(float value) { return (Floats16)_mm512_set1_ps(value); }
INLINE Floats16 load16(const float* address) { return (Floats16)_mm512_loadu_ps(address); }
INLINE void store16(float* address, Floats16 v) { _mm512_storeu_ps(address, (__m512)v); }
INLINE Floats16 join(Floats8 low, Floats8 high) {
    return (Floats16)_mm512_insertf32x8(_mm512_castps256_ps512((__m256)low), (__m256)high, 1);
}
INLINE Floats16 floats_of(Ints16 v) { return (Floats16)_mm512_cvtepi32_ps((__m512i)v); }
INLINE Floats16 fused(Floats16 a, Floats16 b, Floats16 c) {
    return (Floats16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
INLINE Floats16 pick(Floats16 v, Ints16 lanes) {
    return (Floats16)_mm512_permutexvar_ps((__m512i)lanes, (__m512)v);
}
INLINE float total(Floats16 v) {
    return total((Floats8)_mm512_castps512_ps256((__m512)v) +
                 (Floats8)_mm512_extractf32x8_ps((__m512)v, 1));
}

#if defined(HAS_SHORTS)
typedef int16_t Shorts32 __attribute__((vector_size(64)));

INLINE Shorts32 pairs_of(Bytes64 codes, Bytes64 x) {
    return (Shorts32)_mm512_maddubs_epi16((__m512i)codes, (__m512i)x);
}
INLINE Ints16 add_pairs(Ints16 sums, Shorts32 pairs) {
    return sums + (Ints16)_mm512_madd_epi16((__m512i)pairs, _mm512_set1_epi16(1));
}
#endif

// Sixteen sums plus four products each; see wide.h.
INLINE Ints16 add_dot(Ints16 sums, Bytes64 codes, Bytes64 x) {
#if defined(__AVX512VNNI__)
    return (Ints16)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)codes, (__m512i)x);
#else
    return add_pairs(sums, pairs_of(codes, x));
#endif
}
INLINE Ints16 add_dot_signed(Ints16 sums, Bytes64 codes, Bytes64 x) {
    const __mmask64 negative = _mm512_movepi8_mask((__m512i)codes);
    const __m512i zero = _mm512_setzero_si512();
    const __m512i turned = _mm512_mask_sub_epi8((__m512i)x, negative, zero, (__m512i)x);
    return add_dot(sums, (Bytes64)_mm512_abs_epi8((__m512i)codes), (Bytes64)turned);
}

}  // namespace KERNELS

#endif
