// Dot products of decoded rows; see kernels.h.
#pragma once

#include <cstddef>

namespace KERNELS {

// A register's width, and the activations whose sums fill the registers (16, with AVX-512 32).
#if defined(__AVX512F__)
constexpr int LANES = 16, FASTEST_X = 4;
#elif defined(__AVX__)
constexpr int LANES = 8, FASTEST_X = 3;
#else
constexpr int LANES = 4, FASTEST_X = 3;
#endif

void dot_tile(const float* w, ptrdiff_t w_stride, const float* x, ptrdiff_t x_stride, int n,
              int cols, float* out);

}  // namespace KERNELS
