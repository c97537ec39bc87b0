// Rounding on one instruction set: tiles of up to ROWS rows of a weight. See rounding_kernels.cpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include "pack.h"
#include "spec.h"

// A matrix in memory: neighbours in a row are `step` numbers apart, rows `stride`.
template <typename Number>
struct Strided {
    Number* data;
    ptrdiff_t stride, step;
};

// Rows of full-precision weights as they lie in a file.
struct Source {
    const uint8_t* data;
    size_t row_bytes;
    int bytes;  // of a weight
    void (*decode_row)(const uint8_t* row, int cols, float* out);
};

// Rows to round to the nearest points of their fitted grids.
struct Rows {
    Source source;
    int count, cols;
    const float* weight;      // (cols,) importance beside the block, as base.shares gives it
    const float* importance;  // (cols,) by which losses are weighed
    uint8_t* out;             // packed rows
    size_t out_bytes;         // of a packed row
};

// Sums over weights: of importance * error * error, of importance * weight * weight, and of
// 0 * weight, which is not 0 when one of them is infinite or NaN.
struct Losses {
    double error, energy, invalid;
};

// A window of columns of a weight in GPTQ.
struct Window {
    int rows, cols;
    Strided<const float> w;      // as updated for all columns before the window
    const float* weight;         // (cols,)
    Strided<const float> upper;  // (cols, cols): U of the window, see quantize/methods/gptq.py
    float* params;               // (rows, blocks, Spec::params)
    Strided<int32_t> codes;
    Strided<float> value;
};

// One block of a weight in coordinate descent; matrices are transposed, (columns, rows).
struct Descent {
    int rows, cols;                      // cols: of the window
    int start;                           // the block's first column in the window
    Strided<const float> scale, offset;  // grid of each weight of the block
    Strided<const float> hessian;        // (cols, cols): row i is column i of the Hessian
    Strided<int32_t> codes;              // of the block
    Strided<float> value;                // of the block
    Strided<float> pull;                 // of the window: minus half the gradient
};

// Tiles have up to ROWS rows.
struct RoundingKernels {
    const Packer* packers;
    int packer_count;
    // The scales of `rows` rows of w: params (rows, blocks, Spec::params).
    void (*fit)(const Spec& spec, Strided<const float> w, const float* weight, int rows, int cols,
                float* params);
    Losses (*quantize)(const Spec& spec, const Packer& packer, const Rows& tile);
    // GPTQ's loop over the columns; a block is fitted when its first column is reached.
    void (*gptq)(const Spec& spec, const Window& tile);
    // The best code of each weight beside all others, column by column.
    void (*recode)(const Spec& spec, const Descent& tile);
};

namespace baseline {
extern const RoundingKernels rounding;
}
namespace avx2 {
extern const RoundingKernels rounding;
}
namespace avx512 {
extern const RoundingKernels rounding;
}
