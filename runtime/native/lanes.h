// A register of float32 in the vector types of g++ and clang: what every file that computes in
// float32 needs. ops/lanes.h and fit/lanes.h add what theirs need.
#pragma once

#include "float16.h"

namespace KERNELS {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
typedef float Lanes __attribute__((vector_size(LANES * sizeof(float))));

INLINE Lanes load(const float* from) {
    Lanes x;
    memcpy(&x, from, sizeof x);
    return x;
}

INLINE void store(float* to, Lanes x) { memcpy(to, &x, sizeof x); }

INLINE Lanes all(float x) { return x - (Lanes){}; }

// Sum of the lanes, by halves.
INLINE float total(Lanes x) {
    float parts[LANES];
    store(parts, x);
    for (int width = LANES / 2; width > 0; width /= 2) {
        for (int i = 0; i < width; i++) parts[i] += parts[i + width];
    }
    return parts[0];
}

}  // namespace KERNELS
