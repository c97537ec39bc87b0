// Rounding on one instruction set: tiles of up to ROWS rows of a weight. See rounders.cpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include "spec.h"

// A matrix of float32 in memory: neighbours in a row are `step` numbers apart, rows `stride`.
template <typename Number>
struct Strided {
    Number* data;
    ptrdiff_t stride, step;
};

struct Rounders {
    // The scales of `rows` <= ROWS rows of `cols` weights: params (rows, blocks, Spec::params).
    // weight: the importance of each column beside its block, as fitting.block_weights gives it.
    void (*fit)(const Spec& spec, Strided<const float> w, const float* weight, int rows, int cols,
                float* params);
    // The same, and the nearest codes (rows, cols) as bytes; adds the squared error and the squares
    // of the weights to sums[0] and sums[1].
    void (*quantize)(const Spec& spec, Strided<const float> w, const float* weight, int rows,
                     int cols, float* params, uint8_t* codes, double* sums);
    // GPTQ's loop over a window of columns: each block is fitted when its first column is reached,
    // on the weights as updated. upper: that part of the factor, (cols, cols). errors: what the
    // columns after the window are still to be updated with.
    void (*gptq)(const Spec& spec, Strided<const float> w, const float* weight,
                 Strided<const float> upper, int rows, int cols, float* params,
                 Strided<int32_t> codes, Strided<float> value, Strided<float> errors);
};

namespace baseline {
extern const Rounders rounders;
}
namespace avx2 {
extern const Rounders rounders;
}
namespace avx512 {
extern const Rounders rounders;
}
