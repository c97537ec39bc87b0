// Packed rows against float32 activations, and packed rows to float32.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels.h"

// Decode `rows` packed rows of `cols` weights: out (rows, cols).
void decode_rows(const Layout& layout, const uint8_t* data, int rows, int cols, float* out);

// out (n, rows) = x (n, cols) times the packed rows (rows, cols), transposed.
void matvec(const Kernels& kernels, const Layout& layout, const uint8_t* data, int rows, int cols,
            const float* x, int n, float* out);
