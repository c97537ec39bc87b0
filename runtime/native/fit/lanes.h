// A register of float32 numbers, one a row of the weight, in the vector types of g++ and clang.
//
// Every operation rounds as numpy's does, so that a lane computes exactly what the definition in
// runtime/quant_types says: no sum is contracted, divisions are exact, halves round to even.
#pragma once

#include <cstdint>

#include "../lanes.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace KERNELS {

typedef int32_t Bits __attribute__((vector_size(4 * LANES)));

INLINE Bits bits_of(Lanes x) { return (Bits)x; }

INLINE Lanes absolute(Lanes x) { return (Lanes)(bits_of(x) & 0x7fffffff); }

// x, or `least` where it is less; an equal zero keeps its sign.
INLINE Lanes at_least(Lanes x, Lanes least) {
#if defined(__AVX512F__)
    return (Lanes)_mm512_max_ps((__m512)least, (__m512)x);
#elif defined(__AVX2__)
    return (Lanes)_mm256_max_ps((__m256)least, (__m256)x);
#else
    return x < least ? least : x;
#endif
}

// x, or `most` where it is greater.
INLINE Lanes at_most(Lanes x, Lanes most) {
#if defined(__AVX512F__)
    return (Lanes)_mm512_min_ps((__m512)most, (__m512)x);
#elif defined(__AVX2__)
    return (Lanes)_mm256_min_ps((__m256)most, (__m256)x);
#else
    return x > most ? most : x;
#endif
}

INLINE Lanes clip(Lanes x, Lanes least, Lanes most) { return at_most(at_least(x, least), most); }

// The nearest integer, halves to even; -0.3 becomes -0.0.
INLINE Lanes nearest(Lanes x) {
#if defined(__AVX512F__)
    return (Lanes)_mm512_roundscale_ps((__m512)x, 8);
#elif defined(__AVX2__)
    return (Lanes)_mm256_round_ps((__m256)x, 8);
#else
    const Bits sign = bits_of(x) & INT32_MIN;
    const Lanes shift = (Lanes)(sign | bits_of(all(8388608.0f)));  // 2^23: no digits after it
    const Lanes rounded = (Lanes)(bits_of((x + shift) - shift) | sign);
    return absolute(x) < 8388608.0f ? rounded : x;
#endif
}

INLINE Lanes floored(Lanes x) {
    const Lanes whole = nearest(x);
    return whole > x ? whole - 1.0f : whole;
}

INLINE Lanes ceiled(Lanes x) {
    const Lanes whole = nearest(x);
    return whole < x ? whole + 1.0f : whole;
}

// Half steps from `lowest` to the floor of 2 x, no further than `highest`; 0 for NaN, so that what
// is damaged never reads past a table.
INLINE Bits half_steps(Lanes x, float lowest, float highest) {
    Lanes steps = floored(x + x);
    steps = steps > lowest ? steps : all(lowest);
    return __builtin_convertvector(at_most(steps, all(highest)) - lowest, Bits);
}

INLINE Bits integers_of(Lanes x) { return __builtin_convertvector(x, Bits); }

// table[index] of each lane.
INLINE Lanes look_up(const float* table, Bits index) {
#if defined(__AVX512F__)
    return (Lanes)_mm512_i32gather_ps((__m512i)index, table, 4);
#elif defined(__AVX2__)
    return (Lanes)_mm256_i32gather_ps(table, (__m256i)index, 4);
#else
    Lanes found;
    for (int lane = 0; lane < LANES; lane++) found[lane] = table[index[lane]];
    return found;
#endif
}

// The nearest float16 no greater than 65504, as float32.
INLINE Lanes float16(Lanes x) {
    x = clip(x, all(-65504.0f), all(65504.0f));
#if defined(__AVX512F__)
    return (Lanes)_mm512_cvtph_ps(_mm512_cvtps_ph((__m512)x, 0));
#elif defined(__AVX2__)
    return (Lanes)_mm256_cvtph_ps(_mm256_cvtps_ph((__m256)x, 0));
#else
    const Bits sign = bits_of(x) & INT32_MIN;
    const Bits odd = bits_of(x) >> 13 & 1;
    const Lanes normal = (Lanes)((bits_of(x) + 0xfff + odd) & ~0x1fff);
    // below 2^-14 the step is 2^-24, as it is for a float32 beside 0.75
    const Lanes small = (Lanes)(bits_of((absolute(x) + 0.75f) - 0.75f) | sign);
    return absolute(x) < 6.103515625e-05f ? small : normal;
#endif
}

// x, to divide by: 1 is added to what is smaller than 2^-60.
INLINE Lanes guarded(Lanes x) { return x + (absolute(x) < 0x1p-60f ? all(1.0f) : all(0.0f)); }

// Sum of `count` (a power of two) numbers by halves, as runtime.quant_types.fitting.total adds
// them.
INLINE Lanes total(Lanes* x, int count) {
    for (int half = count / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) x[i] += x[i + half];
    }
    return x[0];
}

}  // namespace KERNELS
