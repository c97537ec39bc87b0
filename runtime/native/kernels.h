// What one instruction set offers: decoders of every block layout, the dot products, and the rest of
// a token.
//
// kernels.cpp, dot.cpp, layouts/ and ops/ are compiled once for each instruction set, into a namespace of
// that name (the macro KERNELS). They include only <cstddef>, <cstdint> and <cstring>: of an inline
// library function the linker keeps one copy for everyone, and it could be one compiled for AVX2.
#pragma once

#include <cstddef>
#include <cstdint>

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

constexpr int PANEL = 32;  // columns of a panel of the KV cache, see cache.h

// The rest of a token. Arrays of float32 may lie at any address.
struct Ops {
    // x += y.
    void (*add)(float* x, const float* y, int count);
    // out = x / sqrt(mean(x^2) + eps) * weight.
    void (*rmsnorm)(const float* x, const float* weight, int count, float eps, float* out);
    // gate = silu(gate) * up.
    void (*silu_mul)(float* gate, const float* up, int count);
    // Turn the pairs (head[i], head[half + i]) by the angles whose cosines and sines are given.
    void (*rotate)(float* head, const float* cosines, const float* sines, int half);
    // float32 -> float16, to the nearest.
    void (*narrow)(const float* values, int count, uint16_t* out);
    // float16 -> float32; `count` is a multiple of PANEL.
    void (*widen)(const uint16_t* values, int count, float* out);
    // out (rows, PANEL) = keep * out + a (rows, count) times panel (count, PANEL), by the panel's
    // type. `keep` has one factor a row; without it out = the product. Strides are in floats.
    void (*times_panel_f16)(const float* a, ptrdiff_t a_stride, int rows, const void* panel,
                            int count, const float* keep, float* out, ptrdiff_t out_stride);
    void (*times_panel_f32)(const float* a, ptrdiff_t a_stride, int rows, const void* panel,
                            int count, const float* keep, float* out, ptrdiff_t out_stride);
    // One more stretch of an online softmax: scores (keys,), a multiple of PANEL, of which the
    // first `seen` count, become exp(score - largest), and 0 from there on. `largest` and `sum` are
    // those of the row so far; returns the factor on everything added up before.
    float (*softmax_step)(float* scores, int keys, int seen, float* largest, float* sum);
};

struct Kernels {
    const char* name;
    const Layout* layouts;
    int layout_count;
    int tile_x;  // activations that dot_tile multiplies fastest: as many as the registers hold
    // Dot products of TILE_ROWS rows w with n = 1..MOST_X rows x, over cols columns:
    // out[i * TILE_ROWS + r] = x[i] . w[r]. The strides are from row to row, in floats.
    void (*dot_tile)(const float* w, ptrdiff_t w_stride, const float* x, ptrdiff_t x_stride, int n,
                     int cols, float* out);
    Ops ops;
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
