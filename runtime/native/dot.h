// Dot products of decoded rows; see kernels.h.
#pragma once

#include <cstddef>

namespace KERNELS {

// The activations whose sums fill the registers (16, with AVX-512 32).
#if defined(__AVX512F__)
constexpr int FASTEST_X = 4;
#else
constexpr int FASTEST_X = 3;
#endif

void dot_tile(const float* w, ptrdiff_t w_stride, const float* x, ptrdiff_t x_stride, int n,
              int cols, float* out);

}  // namespace KERNELS
