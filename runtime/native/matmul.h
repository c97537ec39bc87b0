// Packed rows against float32 activations, and packed rows to float32.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels.h"

// Decode `rows` packed rows of `cols` weights: out (rows, cols).
void decode_rows(const Layout& layout, const uint8_t* data, int rows, int cols, float* out);

// out (n, rows) = x (n, cols) times the packed rows (rows, cols), transposed.
//
// By default activations are rounded to int8 codes or, when there are many and the processor has
// AMX, to bfloat16 together with the weights. A row of `out` depends on n at most by this choice.
void matmul(const Kernels& kernels, const Layout& layout, const uint8_t* data, int rows, int cols,
            const float* x, int n, float* out);

// Whether products are float32 throughout: the definition that the fast ones are tested against.
void set_exact(bool exact);
bool is_exact();
