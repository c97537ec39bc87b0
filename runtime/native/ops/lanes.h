// A register of float32, for everything between the products: loads, sums, exp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "dot.h"
#include "numbers.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace KERNELS {

typedef float Lane __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t LaneInts __attribute__((vector_size(LANES * sizeof(int32_t))));

inline __attribute__((always_inline)) Lane load_lane(const float* address) {
    Lane values;
    memcpy(&values, address, sizeof values);
    return values;
}

// float16 in memory becomes float32 in the register.
inline __attribute__((always_inline)) Lane load_lane(const uint16_t* address) {
#if defined(__AVX512F__)
    return (Lane)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)address));
#elif defined(__F16C__)
    return (Lane)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)address));
#elif defined(__aarch64__)
    return (Lane)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(address)));
#else
    Lane values;
    for (int i = 0; i < LANES; i++) values[i] = float_of_half(address[i]);
    return values;
#endif
}

inline __attribute__((always_inline)) void store_lane(float* address, Lane values) {
    memcpy(address, &values, sizeof values);
}

inline __attribute__((always_inline)) Lane spread(float value) { return value - (Lane){}; }

inline __attribute__((always_inline)) Lane larger(Lane a, Lane b) { return a > b ? a : b; }

inline float lane_total(Lane values) {
    float parts[LANES];
    memcpy(parts, &values, sizeof values);
    for (int width = LANES / 2; width > 0; width /= 2) {
        for (int i = 0; i < width; i++) parts[i] += parts[i + width];
    }
    return parts[0];
}

inline float lane_largest(Lane values) {
    float parts[LANES];
    memcpy(parts, &values, sizeof values);
    for (int width = LANES / 2; width > 0; width /= 2) {
        for (int i = 0; i < width; i++) {
            parts[i] = parts[i] > parts[i + width] ? parts[i] : parts[i + width];
        }
    }
    return parts[0];
}

// e^x to 2 units in the last place; 0 below -87.3, where float32 would turn subnormal, and NaN for
// NaN. x is split into n ln 2 and a rest within ln 2 / 2, whose exponential is Taylor's polynomial.
inline __attribute__((always_inline)) Lane lane_exp(Lane x) {
    const Lane least = spread(-87.33654f), most = spread(88.37626f);
    const Lane bounded = x > most ? most : x;
    const Lane turns = bounded * 1.44269504f;
    const Lane magic = spread(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
    const Lane whole = (turns + magic) - magic;
    const Lane rest = (bounded - whole * 0.693359375f) - whole * -2.12194440e-4f;
    Lane sum = spread(1.0f / 5040);
    sum = sum * rest + 1.0f / 720;
    sum = sum * rest + 1.0f / 120;
    sum = sum * rest + 1.0f / 24;
    sum = sum * rest + 1.0f / 6;
    sum = sum * rest + 0.5f;
    sum = sum * rest + 1.0f;
    sum = sum * rest + 1.0f;
    const LaneInts power = ((LaneInts)(turns + magic) - (LaneInts)magic + 127) << 23;
    const Lane value = sum * (Lane)power;
    return x < least ? spread(0.0f) : value;
}

}  // namespace KERNELS
