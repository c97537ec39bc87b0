// Dot products of decoded rows; see kernels.h.
#pragma once

#include <cstddef>

namespace KERNELS {

void dot_tile(const float* w, ptrdiff_t w_stride, const float* x, ptrdiff_t x_stride, int n,
              int cols, float* out);

}  // namespace KERNELS
