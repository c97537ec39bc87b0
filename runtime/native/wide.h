// Thirty-two codes and eight floats at a time, spelled with what the instruction set has: one
// register of AVX2, or a pair of sixteen bytes each.
//
// Integer products, 32 of them a call: portable, SSE2 (pmaddwd), NEON (smull), NEON dotprod (sdot),
// AVX2 (vpmaddubsw), AVX-VNNI and AVX-512 VNNI (vpdpbusd). All give the same integers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "float16.h"
#include "vectors.h"

namespace KERNELS {

#if defined(__AVX2__)

typedef uint8_t Bytes32 __attribute__((vector_size(32)));
typedef int32_t Ints8 __attribute__((vector_size(32)));
typedef float Floats8 __attribute__((vector_size(32)));

INLINE Bytes32 load32(const void* address) {
    return (Bytes32)_mm256_loadu_si256((const __m256i*)address);
}
INLINE Bytes32 repeat32(uint8_t value) { return (Bytes32)_mm256_set1_epi8((char)value); }
INLINE Bytes32 join(Bytes low, Bytes high) {
    return (Bytes32)_mm256_set_m128i((__m128i)high, (__m128i)low);
}
INLINE Bytes half_of(Bytes32 v, int half) {
    return (Bytes)(half ? _mm256_extracti128_si256((__m256i)v, 1)
                        : _mm256_castsi256_si128((__m256i)v));
}

// Each pair of bytes as one number, shifted: the caller masks away what crosses into a neighbour.
INLINE Bytes32 shift_right(Bytes32 v, int bits) {
    return (Bytes32)_mm256_srli_epi16((__m256i)v, bits);
}
INLINE Bytes32 shift_left(Bytes32 v, int bits) {
    return (Bytes32)_mm256_slli_epi16((__m256i)v, bits);
}

INLINE Bytes32 look_up32(Codes table, Bytes32 indices) {
    const __m256i both = _mm256_broadcastsi128_si256((__m128i)table);
    return (Bytes32)_mm256_shuffle_epi8(both, (__m256i)indices);
}

// The low nibbles of 16 bytes, then their high nibbles.
INLINE Bytes32 split_nibbles(const uint8_t* bytes) {
    const __m256i both = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)bytes));
    const __m256i shifted = _mm256_srlv_epi64(both, _mm256_setr_epi64x(0, 0, 4, 4));
    return (Bytes32)_mm256_and_si256(shifted, _mm256_set1_epi8(15));
}

// The nibbles of 16 bytes, the low one of each byte first.
INLINE Bytes32 pair_nibbles(const uint8_t* bytes) {
    const __m256i words = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)bytes));
    const __m256i both = _mm256_or_si256(words, _mm256_slli_epi16(words, 4));
    return (Bytes32)_mm256_and_si256(both, _mm256_set1_epi8(15));
}

// 255 or 0 for each of 32 bits, the lowest bit of the first byte first.
INLINE Bytes32 spread_bits32(const uint8_t* bits) {
    uint32_t word;
    memcpy(&word, bits, sizeof word);
    const __m256i place = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2,
                                           2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i copies = _mm256_shuffle_epi8(_mm256_set1_epi32((int)word), place);
    const __m256i one_each = _mm256_set1_epi64x((long long)0x8040201008040201u);
    return (Bytes32)_mm256_cmpeq_epi8(_mm256_and_si256(copies, one_each), one_each);
}

INLINE Floats8 load8(const float* address) { return (Floats8)_mm256_loadu_ps(address); }
INLINE void store8(float* address, Floats8 v) { _mm256_storeu_ps(address, (__m256)v); }
INLINE Floats8 repeat8(float value) { return (Floats8)_mm256_set1_ps(value); }
INLINE Floats8 fused(Floats8 a, Floats8 b, Floats8 c) {
    return (Floats8)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
// first in lanes 0..3, second in lanes 4..7.
INLINE Floats8 repeat_two(const float* first, const float* second) {
    return (Floats8)_mm256_blend_ps(_mm256_broadcast_ss(first), _mm256_broadcast_ss(second), 0xf0);
}
// Each of four floats twice.
INLINE Floats8 repeat_pairs(const float* four) {
    const __m256 both = _mm256_broadcast_ps((const __m128*)four);
    return (Floats8)_mm256_permutevar_ps(both, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
}
INLINE float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
INLINE float first_of(Floats8 v) { return _mm256_cvtss_f32((__m256)v); }
INLINE float total(Floats8 v) {
    const __m128 four =
        _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
// A float16 in all lanes.
INLINE Floats8 half8(const uint8_t* bytes) {
    return (Floats8)_mm256_cvtph_ps(_mm_set1_epi16((short)load_u16(bytes)));
}
INLINE Floats8 floats_of_bytes(const uint8_t* bytes) {
    return (Floats8)_mm256_cvtepi32_ps(
        _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)bytes)));
}
INLINE Floats8 floats_of_bytes(const int8_t* bytes) {
    return (Floats8)_mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)bytes)));
}
INLINE Floats8 floats_of(Ints8 v) { return (Floats8)_mm256_cvtepi32_ps((__m256i)v); }
INLINE Ints8 first_lane(int32_t value) {
    return (Ints8)_mm256_zextsi128_si256(_mm_cvtsi32_si128(value));
}
INLINE Ints8 repeat_int(int32_t value) { return (Ints8)_mm256_set1_epi32(value); }
// The same four bytes eight times.
INLINE Bytes32 repeat_four(const int8_t* four) {
    return (Bytes32)_mm256_castps_si256(_mm256_broadcast_ss((const float*)four));
}

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
constexpr bool FULL_BYTES = true;  // codes of `add_dot` may be 0..255
#else
constexpr bool FULL_BYTES = false;
#endif

#if !defined(__AVX512VNNI__) && !defined(__AVXVNNI__)
#define HAS_SHORTS 1
typedef int16_t Shorts16 __attribute__((vector_size(32)));

// Sixteen sums of two products each in 16 bits, which are enough for a few small codes.
INLINE Shorts16 pairs_of(Bytes32 codes, Bytes32 x) {
    return (Shorts16)_mm256_maddubs_epi16((__m256i)codes, (__m256i)x);
}
INLINE Ints8 add_pairs(Ints8 sums, Shorts16 pairs) {
    return sums + (Ints8)_mm256_madd_epi16((__m256i)pairs, _mm256_set1_epi16(1));
}
#endif

// Eight sums plus four products each, of codes 0..127 (0..255 with FULL_BYTES) with x.
INLINE Ints8 add_dot(Ints8 sums, Bytes32 codes, Bytes32 x) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
    return (Ints8)_mm256_dpbusd_epi32((__m256i)sums, (__m256i)codes, (__m256i)x);
#elif defined(__AVXVNNI__)
    return (Ints8)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)codes, (__m256i)x);
#else
    return add_pairs(sums, pairs_of(codes, x));
#endif
}

// The same for codes -128..127.
INLINE Ints8 add_dot_signed(Ints8 sums, Bytes32 codes, Bytes32 x) {
    const __m256i signs = (__m256i)codes;
    return add_dot(sums, (Bytes32)_mm256_abs_epi8(signs),
                   (Bytes32)_mm256_sign_epi8((__m256i)x, signs));
}

#else  // pairs of sixteen bytes

constexpr bool FULL_BYTES = false;  // see above

typedef int32_t Ints4 __attribute__((vector_size(16)));
typedef float Floats4 __attribute__((vector_size(16)));
typedef uint16_t Shorts __attribute__((vector_size(16)));

struct Bytes32 {
    Bytes low, high;
};
struct Ints8 {
    Ints4 low, high;
};
struct Floats8 {
    Floats4 low, high;
};

INLINE Bytes32 operator&(Bytes32 a, Bytes32 b) { return {a.low & b.low, a.high & b.high}; }
INLINE Bytes32 operator|(Bytes32 a, Bytes32 b) { return {a.low | b.low, a.high | b.high}; }
INLINE Bytes32 operator^(Bytes32 a, Bytes32 b) { return {a.low ^ b.low, a.high ^ b.high}; }
INLINE Bytes32 operator&(Bytes32 a, uint8_t b) { return {a.low & b, a.high & b}; }
INLINE Floats8 operator*(Floats8 a, Floats8 b) { return {a.low * b.low, a.high * b.high}; }
INLINE Floats8 operator+(Floats8 a, Floats8 b) { return {a.low + b.low, a.high + b.high}; }
INLINE Floats8 operator-(Floats8 a) { return {-a.low, -a.high}; }

INLINE Bytes32 load32(const void* address) {
    return {load_bytes(address), load_bytes((const uint8_t*)address + 16)};
}
INLINE Bytes32 repeat32(uint8_t value) { return {Bytes{} + value, Bytes{} + value}; }
INLINE Bytes32 join(Bytes low, Bytes high) { return {low, high}; }
INLINE Bytes half_of(Bytes32 v, int half) { return half ? v.high : v.low; }

INLINE Bytes32 shift_right(Bytes32 v, int bits) {
    return {(Bytes)((Shorts)v.low >> bits), (Bytes)((Shorts)v.high >> bits)};
}
INLINE Bytes32 shift_left(Bytes32 v, int bits) {
    return {(Bytes)((Shorts)v.low << bits), (Bytes)((Shorts)v.high << bits)};
}

INLINE Bytes32 look_up32(Codes table, Bytes32 indices) {
    return {(Bytes)look_up(table, indices.low), (Bytes)look_up(table, indices.high)};
}
INLINE Bytes32 split_nibbles(const uint8_t* bytes) {
    const Bytes both = load_bytes(bytes);
    return {both & 15, both >> 4};
}
INLINE Bytes32 pair_nibbles(const uint8_t* bytes) {
    const Bytes both = load_bytes(bytes);
    return {interleave_low(both & 15, both >> 4), interleave_high(both & 15, both >> 4)};
}
INLINE Bytes32 spread_bits32(const uint8_t* bits) {
    return {-spread_bits(bits), -spread_bits(bits + 2)};
}

INLINE Floats4 load4(const float* address) {
    Floats4 v;
    memcpy(&v, address, sizeof v);
    return v;
}
INLINE Floats8 load8(const float* address) { return {load4(address), load4(address + 4)}; }
INLINE void store8(float* address, Floats8 v) {
    memcpy(address, &v.low, sizeof v.low);
    memcpy(address + 4, &v.high, sizeof v.high);
}
INLINE Floats8 repeat8(float value) {
    const Floats4 four = {value, value, value, value};
    return {four, four};
}
INLINE Floats4 fused(Floats4 a, Floats4 b, Floats4 c) {
#if defined(__aarch64__)
    return (Floats4)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}
INLINE Floats8 fused(Floats8 a, Floats8 b, Floats8 c) {
    return {fused(a.low, b.low, c.low), fused(a.high, b.high, c.high)};
}
INLINE float fused(float a, float b, float c) {
#if defined(__aarch64__)
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}
INLINE Floats8 repeat_two(const float* first, const float* second) {
    const Floats4 low = {*first, *first, *first, *first};
    const Floats4 high = {*second, *second, *second, *second};
    return {low, high};
}
INLINE Floats8 repeat_pairs(const float* four) {
    return {Floats4{four[0], four[0], four[1], four[1]},
            Floats4{four[2], four[2], four[3], four[3]}};
}
INLINE float first_of(Floats8 v) { return v.low[0]; }
INLINE float total(Floats8 v) {
    const Floats4 four = v.low + v.high;
    return (four[0] + four[2]) + (four[1] + four[3]);
}
INLINE Floats8 half8(const uint8_t* bytes) { return repeat8(load_half(bytes)); }
template <class Byte>
INLINE Floats8 floats_of_bytes(const Byte* b) {
    return {Floats4{(float)b[0], (float)b[1], (float)b[2], (float)b[3]},
            Floats4{(float)b[4], (float)b[5], (float)b[6], (float)b[7]}};
}

// Four sums plus four products each.
INLINE Ints4 add_dot16(Ints4 sums, Bytes a, Bytes b) {
#if defined(__ARM_FEATURE_DOTPROD)
    return (Ints4)vdotq_s32((int32x4_t)sums, (int8x16_t)a, (int8x16_t)b);
#elif defined(__aarch64__)
    const int8x16_t left = (int8x16_t)a, right = (int8x16_t)b;
    const int16x8_t low = vmull_s8(vget_low_s8(left), vget_low_s8(right));
    const int32x4_t half = vpadalq_s16((int32x4_t)sums, low);
    return (Ints4)vpadalq_s16(half, vmull_high_s8(left, right));
#elif defined(__SSE2__)
    // bytes doubled to words keep their sign in the upper byte
    const __m128i left = (__m128i)a, right = (__m128i)b;
    const __m128i a_low = _mm_srai_epi16(_mm_unpacklo_epi8(left, left), 8);
    const __m128i a_high = _mm_srai_epi16(_mm_unpackhi_epi8(left, left), 8);
    const __m128i b_low = _mm_srai_epi16(_mm_unpacklo_epi8(right, right), 8);
    const __m128i b_high = _mm_srai_epi16(_mm_unpackhi_epi8(right, right), 8);
    const __m128i both =
        _mm_add_epi32(_mm_madd_epi16(a_low, b_low), _mm_madd_epi16(a_high, b_high));
    return sums + (Ints4)both;
#else
    for (int i = 0; i < 16; i++) sums[i / 4] += (int8_t)a[i] * (int8_t)b[i];
    return sums;
#endif
}

INLINE Floats4 floats_of(Ints4 v) {
#if defined(__SSE2__)
    return (Floats4)_mm_cvtepi32_ps((__m128i)v);
#elif defined(__aarch64__)
    return (Floats4)vcvtq_f32_s32((int32x4_t)v);
#else
    return Floats4{(float)v[0], (float)v[1], (float)v[2], (float)v[3]};
#endif
}

INLINE Floats8 floats_of(Ints8 v) { return {floats_of(v.low), floats_of(v.high)}; }
INLINE Ints8 first_lane(int32_t value) { return {Ints4{value}, Ints4{}}; }
INLINE Ints8 repeat_int(int32_t value) {
    const Ints4 four = Ints4{} + value;
    return {four, four};
}
INLINE Bytes32 repeat_four(const int8_t* four) {
    typedef uint32_t Words __attribute__((vector_size(16)));
    uint32_t word;
    memcpy(&word, four, sizeof word);
    const Bytes all = (Bytes)(Words{word, word, word, word});
    return {all, all};
}

INLINE Ints8 add_dot_signed(Ints8 sums, Bytes32 codes, Bytes32 x) {
    return {add_dot16(sums.low, codes.low, x.low), add_dot16(sums.high, codes.high, x.high)};
}
INLINE Ints8 add_dot(Ints8 sums, Bytes32 codes, Bytes32 x) {
    return add_dot_signed(sums, codes, x);
}

#endif

}  // namespace KERNELS
