// Lanes for everything between the products: float16, the largest, exp.
#pragma once

#include <cstdint>

#include "../lanes.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace KERNELS {

typedef int32_t LaneInts __attribute__((vector_size(LANES * sizeof(int32_t))));

// float16 in memory becomes float32 in the register.
INLINE Lanes load(const uint16_t* address) {
#if defined(__AVX512F__)
    return (Lanes)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)address));
#elif defined(__F16C__)
    return (Lanes)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)address));
#elif defined(__aarch64__)
    return (Lanes)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(address)));
#else
    Lanes values;
    for (int i = 0; i < LANES; i++) values[i] = float_of_half(address[i]);
    return values;
#endif
}

INLINE Lanes larger(Lanes a, Lanes b) { return a > b ? a : b; }

INLINE float lane_largest(Lanes values) {
    float parts[LANES];
    store(parts, values);
    for (int width = LANES / 2; width > 0; width /= 2) {
        for (int i = 0; i < width; i++) {
            parts[i] = parts[i] > parts[i + width] ? parts[i] : parts[i + width];
        }
    }
    return parts[0];
}

// e^x to 2 units in the last place; 0 below -87.3, where float32 would turn subnormal, and NaN for
// NaN. x is split into n ln 2 and a rest within ln 2 / 2, whose exponential is Taylor's polynomial.
INLINE Lanes lane_exp(Lanes x) {
    const Lanes least = all(-87.33654f), most = all(88.37626f);
    const Lanes bounded = x > most ? most : x;
    const Lanes turns = bounded * 1.44269504f;
    const Lanes magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
    const Lanes whole = (turns + magic) - magic;
    const Lanes rest = (bounded - whole * 0.693359375f) - whole * -2.12194440e-4f;
    Lanes sum = all(1.0f / 5040);
    sum = sum * rest + 1.0f / 720;
    sum = sum * rest + 1.0f / 120;
    sum = sum * rest + 1.0f / 24;
    sum = sum * rest + 1.0f / 6;
    sum = sum * rest + 0.5f;
    sum = sum * rest + 1.0f;
    sum = sum * rest + 1.0f;
    const LaneInts power = ((LaneInts)(turns + magic) - (LaneInts)magic + 127) << 23;
    const Lanes value = sum * (Lanes)power;
    return x < least ? all(0.0f) : value;
}

}  // namespace KERNELS
