// Integer products, four of them added to each sum: portable, SSE2 (pmaddwd), NEON (smull), NEON
// dotprod (sdot), AVX2 (vpmaddubsw), AVX-VNNI and AVX-512 VNNI (vpdpbusd). All give the same
// integers.
//
// `add_dot` takes codes 0..127 (0..255 with FULL_BYTES), `add_dot_signed` takes codes -128..127.
#pragma once

#include "simd.h"

namespace KERNELS {

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)

constexpr bool FULL_BYTES = true;

INLINE Ints<8> add_dot(Ints<8> sums, Bytes<32> codes, Codes<32> x) {
#if defined(__AVX512VNNI__)
    return (Ints<8>)_mm256_dpbusd_epi32((__m256i)sums, (__m256i)codes, (__m256i)x);
#else
    return (Ints<8>)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)codes, (__m256i)x);
#endif
}
#if defined(__AVX512VNNI__)
INLINE Ints<16> add_dot(Ints<16> sums, Bytes<64> codes, Codes<64> x) {
    return (Ints<16>)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)codes, (__m512i)x);
}
#endif

#elif defined(__AVX2__)

#define HAS_SHORTS 1
constexpr bool FULL_BYTES = false;

// Sums of two products each in 16 bits, which are enough for a few small codes.
INLINE Shorts<16> pairs_of(Bytes<32> codes, Codes<32> x) {
    return (Shorts<16>)_mm256_maddubs_epi16((__m256i)codes, (__m256i)x);
}
// Both halves of each lane times factors, in 32 bits.
INLINE Ints<8> multiply_pairs(Shorts<16> pairs, Shorts<16> factors) {
    return (Ints<8>)_mm256_madd_epi16((__m256i)pairs, (__m256i)factors);
}
#if defined(__AVX512BW__)
INLINE Shorts<32> pairs_of(Bytes<64> codes, Codes<64> x) {
    return (Shorts<32>)_mm512_maddubs_epi16((__m512i)codes, (__m512i)x);
}
INLINE Ints<16> multiply_pairs(Shorts<32> pairs, Shorts<32> factors) {
    return (Ints<16>)_mm512_madd_epi16((__m512i)pairs, (__m512i)factors);
}
#endif
template <class Weights, class X>
INLINE auto pairs_of(Pair<Weights> codes, Pair<X> x) {
    return Pair<Shorts<16>>{pairs_of(codes.low, x.low), pairs_of(codes.high, x.high)};
}
INLINE Pair<Ints<8>> multiply_pairs(Pair<Shorts<16>> pairs, Pair<Shorts<16>> factors) {
    return {multiply_pairs(pairs.low, factors.low), multiply_pairs(pairs.high, factors.high)};
}
// Each lane as its two halves.
template <class V>
INLINE auto shorts_of(V ints) {
    return (Shorts<sizeof(V) / 2>)ints;
}
template <class V>
INLINE auto shorts_of(Pair<V> ints) {
    return Pair<Shorts<16>>{shorts_of(ints.low), shorts_of(ints.high)};
}
template <class Sums, class Weights, class X>
INLINE Sums add_dot(Sums sums, Weights codes, X x) {
    constexpr int LANES_16 = sizeof(Sums) / sizeof(int16_t);
    return sums + multiply_pairs(pairs_of(codes, x), repeat<LANES_16>((int16_t)1));
}

#else  // registers of sixteen bytes

constexpr bool FULL_BYTES = false;

INLINE Ints<4> add_dot_signed(Ints<4> sums, Bytes<16> codes, Codes<16> x) {
#if defined(__ARM_FEATURE_DOTPROD)
    return (Ints<4>)vdotq_s32((int32x4_t)sums, (int8x16_t)codes, (int8x16_t)x);
#elif defined(__aarch64__)
    const int8x16_t left = (int8x16_t)codes, right = (int8x16_t)x;
    const int16x8_t low = vmull_s8(vget_low_s8(left), vget_low_s8(right));
    const int32x4_t half = vpadalq_s16((int32x4_t)sums, low);
    return (Ints<4>)vpadalq_s16(half, vmull_high_s8(left, right));
#elif defined(__SSE2__)
    // bytes doubled to words keep their sign in the upper byte
    const __m128i left = (__m128i)codes, right = (__m128i)x;
    const __m128i left_low = _mm_srai_epi16(_mm_unpacklo_epi8(left, left), 8);
    const __m128i left_high = _mm_srai_epi16(_mm_unpackhi_epi8(left, left), 8);
    const __m128i right_low = _mm_srai_epi16(_mm_unpacklo_epi8(right, right), 8);
    const __m128i right_high = _mm_srai_epi16(_mm_unpackhi_epi8(right, right), 8);
    const __m128i low = _mm_madd_epi16(left_low, right_low);
    return sums + (Ints<4>)_mm_add_epi32(low, _mm_madd_epi16(left_high, right_high));
#else
    for (int i = 0; i < 16; i++) sums[i / 4] += (int8_t)codes[i] * x[i];
    return sums;
#endif
}
template <class Sums, class Weights, class X>
INLINE Pair<Sums> add_dot_signed(Pair<Sums> sums, Pair<Weights> codes, Pair<X> x) {
    return {add_dot_signed(sums.low, codes.low, x.low),
            add_dot_signed(sums.high, codes.high, x.high)};
}
template <class Sums, class Weights, class X>
INLINE Sums add_dot(Sums sums, Weights codes, X x) {
    return add_dot_signed(sums, codes, x);
}

#endif

#if defined(__AVX2__)
INLINE Ints<8> add_dot_signed(Ints<8> sums, Bytes<32> codes, Codes<32> x) {
    const __m256i signs = (__m256i)codes;
    return add_dot(sums, (Bytes<32>)_mm256_abs_epi8(signs),
                   (Codes<32>)_mm256_sign_epi8((__m256i)x, signs));
}
#endif
#if defined(__AVX512BW__)
INLINE Ints<16> add_dot_signed(Ints<16> sums, Bytes<64> codes, Codes<64> x) {
    const __mmask64 negative = _mm512_movepi8_mask((__m512i)codes);
    const __m512i zero = _mm512_setzero_si512();
    const __m512i turned = _mm512_mask_sub_epi8((__m512i)x, negative, zero, (__m512i)x);
    return add_dot(sums, (Bytes<64>)_mm512_abs_epi8((__m512i)codes), (Codes<64>)turned);
}
#endif

#if defined(HAS_SHORTS)
INLINE Pair<Ints<8>> add_dot_signed(Pair<Ints<8>> sums, Pair<Bytes<32>> codes, Pair<Codes<32>> x) {
    return {add_dot_signed(sums.low, codes.low, x.low),
            add_dot_signed(sums.high, codes.high, x.high)};
}
#endif

// The same four bytes N / 4 times.
template <int N>
INLINE Codes<N> repeat_four(const int8_t* four) {
    if constexpr (N > REGISTER) {
        return {repeat_four<N / 2>(four), repeat_four<N / 2>(four)};
    } else {
        int32_t word;
        memcpy(&word, four, sizeof word);
        return (Codes<N>)repeat<N / 4>(word);
    }
}

}  // namespace KERNELS
