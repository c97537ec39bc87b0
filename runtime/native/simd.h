// Vectors of N numbers, in the vector types that g++ and clang share: Floats<N>, Ints<N> (int32),
// Shorts<N> (int16), Bytes<N> (uint8) and Codes<N> (int8). Floats<> and Ints<> fill a register.
//
// The compiler spells operators with what the instruction set has; here is what has no operator.
// But for `fused`, each function gives the same numbers on every instruction set, those of numpy:
// halves round to even, sums are by halves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "float16.h"

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define ALWAYS_INLINE __attribute__((always_inline))
#define INLINE inline ALWAYS_INLINE
#define NOT_INLINED __attribute__((noinline))

namespace KERNELS {

#if defined(__AVX512BW__)
constexpr int REGISTER = 64;  // bytes
#elif defined(__AVX2__)
constexpr int REGISTER = 32;
#else
constexpr int REGISTER = 16;
#endif
constexpr int LANES = REGISTER / sizeof(float);

// A vector longer than a register is made of halves: g++ would keep it in memory.
template <class Half>
struct Pair {
    Half low, high;
};

template <class Number, int N, bool FITS = N * sizeof(Number) <= REGISTER>
struct VectorOf {
    typedef Number Type __attribute__((vector_size(N * sizeof(Number))));
};
template <class Number, int N>
struct VectorOf<Number, N, false> {
    typedef Pair<typename VectorOf<Number, N / 2>::Type> Type;
};
template <class Number, int N>
using Vec = typename VectorOf<Number, N>::Type;

template <int N = LANES>
using Floats = Vec<float, N>;
template <int N = LANES>
using Ints = Vec<int32_t, N>;
template <int N>
using Shorts = Vec<int16_t, N>;
template <int N>
using Bytes = Vec<uint8_t, N>;
template <int N>
using Codes = Vec<int8_t, N>;

#define PAIRWISE(op)                                   \
    template <class V>                                 \
    INLINE Pair<V> operator op(Pair<V> a, Pair<V> b) { \
        return {a.low op b.low, a.high op b.high};     \
    }
PAIRWISE(+)
PAIRWISE(*)
PAIRWISE(&)
PAIRWISE(|)
PAIRWISE(^)
PAIRWISE(-)
#undef PAIRWISE
template <class V>
INLINE Pair<V> operator&(Pair<V> a, uint8_t b) {
    return {a.low & b, a.high & b};
}
template <class V>
INLINE Pair<V> operator^(Pair<V> a, uint8_t b) {
    return {a.low ^ b, a.high ^ b};
}
template <class V>
INLINE Pair<V> operator-(Pair<V> a) {
    return {-a.low, -a.high};
}

// N numbers at any address.
template <int N = LANES, class Number>
INLINE Vec<Number, N> load(const Number* from) {
    if constexpr (N * sizeof(Number) > REGISTER) {
        return {load<N / 2>(from), load<N / 2>(from + N / 2)};
    } else {
        Vec<Number, N> v;
        memcpy(&v, from, sizeof v);
        return v;
    }
}

template <class Number, class V>
INLINE void store(Number* to, V v) {
    memcpy(to, &v, sizeof v);
}
template <class Number, class V>
INLINE void store(Number* to, Pair<V> v) {
    store(to, v.low);
    store(to + sizeof(V) / sizeof(Number), v.high);
}

// The same number N times.
template <int N = LANES, class Number>
INLINE Vec<Number, N> repeat(Number x) {
    if constexpr (N * sizeof(Number) > REGISTER) {
        return {repeat<N / 2>(x), repeat<N / 2>(x)};
    } else {
        return x - Vec<Number, N>{};
    }
}

// One number, and zeros.
template <int N, class Number>
INLINE Vec<Number, N> first_lane(Number x) {
    if constexpr (N * sizeof(Number) > REGISTER) {
        return {first_lane<N / 2>(x), Vec<Number, N / 2>{}};
    } else {
        return Vec<Number, N>{x};
    }
}

// A float16 N times, as float32.
template <int N>
INLINE Floats<N> repeat_half(const uint8_t* bytes) {
#if defined(__AVX2__)
    static_assert(N == 8);
    return (Floats<8>)_mm256_cvtph_ps(_mm_set1_epi16((short)load_u16(bytes)));
#else
    return repeat<N>(load_half(bytes));
#endif
}

// a * b + c, rounded once where the instruction set can.
#if defined(__AVX2__)
INLINE float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
INLINE Floats<8> fused(Floats<8> a, Floats<8> b, Floats<8> c) {
    return (Floats<8>)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
#elif defined(__aarch64__)
INLINE float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
INLINE Floats<4> fused(Floats<4> a, Floats<4> b, Floats<4> c) {
    return (Floats<4>)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
#else
template <class V>
INLINE V fused(V a, V b, V c) {
    return a * b + c;
}
#endif
#if defined(__AVX512BW__)
INLINE Floats<16> fused(Floats<16> a, Floats<16> b, Floats<16> c) {
    return (Floats<16>)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
#endif
template <class V>
INLINE Pair<V> fused(Pair<V> a, Pair<V> b, Pair<V> c) {
    return {fused(a.low, b.low, c.low), fused(a.high, b.high, c.high)};
}

template <class V>
INLINE auto floats_of(V ints) {
    return __builtin_convertvector(ints, Floats<sizeof(V) / sizeof(float)>);
}
template <class V>
INLINE auto floats_of(Pair<V> ints) {
    return Floats<sizeof ints / sizeof(float)>{floats_of(ints.low), floats_of(ints.high)};
}
INLINE Ints<> integers_of(Floats<> x) { return __builtin_convertvector(x, Ints<>); }

// The first number.
template <class V>
INLINE auto first_of(V v) {
    return v[0];
}
template <class V>
INLINE auto first_of(Pair<V> v) {
    return v.low[0];
}

// Sum by halves.
#if defined(__AVX2__)
INLINE float total(Floats<8> v) {
    const __m128 four =
        _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
#else
INLINE float total(Floats<4> v) { return (v[0] + v[2]) + (v[1] + v[3]); }
#endif
#if defined(__AVX512BW__)
INLINE float total(Floats<16> v) {
    return total((Floats<8>)_mm256_add_ps(_mm512_castps512_ps256((__m512)v),
                                          _mm512_extractf32x8_ps((__m512)v, 1)));
}
#endif
template <class V>
INLINE float total(Pair<V> v) {
    return total(v.low + v.high);
}

// x, or `least` where it is less; an equal zero keeps its sign.
INLINE Floats<> at_least(Floats<> x, Floats<> least) {
#if defined(__AVX512BW__)
    return (Floats<>)_mm512_max_ps((__m512)least, (__m512)x);
#elif defined(__AVX2__)
    return (Floats<>)_mm256_max_ps((__m256)least, (__m256)x);
#else
    return x < least ? least : x;
#endif
}

// x, or `most` where it is greater.
INLINE Floats<> at_most(Floats<> x, Floats<> most) {
#if defined(__AVX512BW__)
    return (Floats<>)_mm512_min_ps((__m512)most, (__m512)x);
#elif defined(__AVX2__)
    return (Floats<>)_mm256_min_ps((__m256)most, (__m256)x);
#else
    return x > most ? most : x;
#endif
}

INLINE Floats<> clip(Floats<> x, Floats<> least, Floats<> most) {
    return at_most(at_least(x, least), most);
}

INLINE Floats<> absolute(Floats<> x) { return (Floats<>)((Ints<>)x & 0x7fffffff); }

// The nearest integer, halves to even; -0.3 becomes -0.0.
INLINE Floats<> nearest(Floats<> x) {
#if defined(__AVX512BW__)
    return (Floats<>)_mm512_roundscale_ps((__m512)x, 8);
#elif defined(__AVX2__)
    return (Floats<>)_mm256_round_ps((__m256)x, 8);
#else
    const Ints<> sign = (Ints<>)x & INT32_MIN;
    const Floats<> shift =
        (Floats<>)(sign | (Ints<>)repeat(8388608.0f));  // 2^23: no digits after it
    const Floats<> rounded = (Floats<>)((Ints<>)((x + shift) - shift) | sign);
    return absolute(x) < 8388608.0f ? rounded : x;
#endif
}

INLINE Floats<> floored(Floats<> x) {
    const Floats<> whole = nearest(x);
    return whole > x ? whole - 1.0f : whole;
}

INLINE Floats<> ceiled(Floats<> x) {
    const Floats<> whole = nearest(x);
    return whole < x ? whole + 1.0f : whole;
}

// The nearest float16 no greater than 65504, as float32.
INLINE Floats<> float16(Floats<> x) {
    x = clip(x, repeat(-65504.0f), repeat(65504.0f));
#if defined(__AVX512BW__)
    return (Floats<>)_mm512_cvtph_ps(_mm512_cvtps_ph((__m512)x, 0));
#elif defined(__AVX2__)
    return (Floats<>)_mm256_cvtph_ps(_mm256_cvtps_ph((__m256)x, 0));
#else
    const Ints<> sign = (Ints<>)x & INT32_MIN;
    const Ints<> odd = (Ints<>)x >> 13 & 1;
    const Floats<> normal = (Floats<>)(((Ints<>)x + 0xfff + odd) & ~0x1fff);
    // below 2^-14 the step is 2^-24, as it is for a float32 beside 0.75
    const Floats<> small = (Floats<>)((Ints<>)((absolute(x) + 0.75f) - 0.75f) | sign);
    return absolute(x) < 6.103515625e-05f ? small : normal;
#endif
}

// table[index] of each lane.
INLINE Floats<> look_up(const float* table, Ints<> index) {
#if defined(__AVX512BW__)
    return (Floats<>)_mm512_i32gather_ps((__m512i)index, table, 4);
#elif defined(__AVX2__)
    return (Floats<>)_mm256_i32gather_ps(table, (__m256i)index, 4);
#else
    Floats<> found;
    for (int lane = 0; lane < LANES; lane++) found[lane] = table[index[lane]];
    return found;
#endif
}

}  // namespace KERNELS
