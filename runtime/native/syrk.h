// Sums of x^T x over tokens, on all threads: the Hessians of calibration.
#pragma once

#include <cstddef>

#include "kernels.h"

// Numbers (tokens, cols), a row of which is `stride` floats after the one before.
struct TokenRows {
    const float* data;
    ptrdiff_t stride;
};

// Add weighed^T x, both (tokens, cols), to the upper half of total (cols, cols) and to blocks along
// its diagonal, with inputs rounded to bfloat16. `weighed` is x itself or x with each token times a
// number. The kernels must have `syrk_bf16`.
void syrk(const Kernels& kernels, TokenRows weighed, TokenRows x, int tokens, int cols,
          float* total, ptrdiff_t stride);
