// What one instruction set offers: decoders of every block layout, the dot products, and rounding.
//
// kernels.cpp, dot.cpp, layouts/ and fit/ are compiled once for each instruction set, into a namespace of
// that name (the macro KERNELS). They include only <cstddef>, <cstdint> and <cstring>: of an inline
// library function the linker keeps one copy for everyone, and it could be one compiled for AVX2.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fit/rounders.h"

// A block layout. A row is `cols / block` blocks of `bytes` bytes.
struct Layout {
    const char* name;  // as in runtime.blocks
    int block;         // weights of one block
    int bytes;         // bytes of one block
    // Decode `cols` weights (a multiple of `block`) to float32, bit for bit as runtime.blocks does.
    void (*decode_row)(const uint8_t* row, int cols, float* out);
};

constexpr int TILE_ROWS = 4;  // rows of a weight that dot_tile multiplies at once
constexpr int MOST_X = 4;     // activations that dot_tile can multiply at once

struct Kernels {
    const char* name;
    const Layout* layouts;
    int layout_count;
    int tile_x;  // activations that dot_tile multiplies fastest: as many as the registers hold
    // Dot products of TILE_ROWS rows w with n = 1..MOST_X rows x, over cols columns:
    // out[i * TILE_ROWS + r] = x[i] . w[r]. The strides are from row to row, in floats.
    void (*dot_tile)(const float* w, ptrdiff_t w_stride, const float* x, ptrdiff_t x_stride, int n,
                     int cols, float* out);
    const Rounders* rounders;  // scale search and rounding
};

namespace baseline {
extern const Kernels kernels;
}
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
