// What one instruction set offers: decoders of every block layout, the products, the rest of a
// token, and rounding.
//
// kernels.cpp, dot.cpp, activations.cpp, gemm_int8.cpp, gemm_amx.cpp, syrk_bf16.cpp, layouts/, ops/
// and fit/ are compiled once for each instruction set, into a namespace of that name (the macro
// KERNELS). They include only <cstddef>, <cstdint>, <cstring> and intrinsics: of an inline library
// function the linker keeps one copy for everyone, and it could be one compiled for AVX2.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fit/rounding_kernels.h"

constexpr int TILE_ROWS = 4;         // rows of a weight that dot_tile and dot_rows multiply at once
constexpr int MOST_PANEL_ROWS = 16;  // rows that a panel can have
constexpr int MOST_PANEL = 1 << 15;  // codes that a panel can have
constexpr int SYRK_COLS = 48;        // columns of a panel of pairs, see syrk_bf16.h
constexpr int MOST_X = 4;            // activations that dot_tile and dot_rows can multiply at once

// Activations (n, cols) as int8 codes with a float32 scale for each 32 columns, and what the form
// of the weights needs: weight = (code - center) * scale + offset, a scale for each `width`
// columns.
// `group` tokens lie side by side: T of them, n / T groups of them, the last one filled up.
struct Quantized {
    int n, cols, group;
    int width, center;  // those of the layout
    int8_t* codes;      // [n / T][cols / 4][T][4], -127..127
    float* scales;      // [n / T][cols / 32][T]: activation = scale * code
    float* sums;        // [n / T][cols / width][T]: scale * sum of `width` codes, for offsets
    int32_t* starts;    // [n / T][cols / width][T]: -center * sum of `width` codes; products of
                        // codes begin with it, as if the weights' codes were less the center
    bool in_pairs;      // a start is two int16: of columns 0, 1 of each four, and of columns 2, 3
};

// The unpacked form of a few rows' columns from `first` on.
struct Panel {
    int first, cols;
    int bits;          // of a code
    int span;          // columns that share a scale: `width` of Quantized, or more with factors
    bool has_offsets;  // some offset is not zero
    bool has_center;   // the layout's is not zero
    uint8_t* codes;    // [cols / 4][row][4]
    float* scales;     // [cols / span][row]
    int16_t* factors;  // [cols / width][row][2]: of the scale, each twice; see gemm_short.h
    float* offsets;    // [cols / width][row]
};

// A block layout. A row is `cols / block` blocks of `bytes` bytes.
struct Layout {
    const char* name;  // as in runtime.quant_types
    int block;         // weights of one block
    int bytes;         // bytes of one block
    // Decode `cols` weights (a multiple of `block`) to float32, bit for bit as runtime.quant_types
    // does.
    void (*decode_row)(const uint8_t* row, int cols, float* out);
    // Products of TILE_ROWS packed rows with activations first..first + n - 1, n = 1, 2 or 4:
    // out[i * TILE_ROWS + r]. Null for the float layouts and NVFP4: activations stay float.
    void (*dot_rows)(const uint8_t* const rows[TILE_ROWS], const Quantized& x, int first, int n,
                     float* out);
    // Decode `cols` weights to bfloat16: 32 columns at out, the next 32 `stride` numbers further.
    // A last part is filled with zeros. Null for the float layouts and without bfloat16 products.
    void (*decode_bfloat)(const uint8_t* row, int cols, ptrdiff_t stride, uint16_t* out);
    // Unpack `panel_rows` rows side by side, see gemm_int8.h. Null for the float layouts and
    // without panels.
    void (*unpack_panel)(const uint8_t* const* rows, Panel& panel);
    // Columns that share a scale in products with int8 activations (16 or 32), and the code of
    // weight zero there; see Quantized.
    int width, center;
    bool short_sums;  // panels are multiplied as gemm_short.h says
};

// The largest of some numbers, the first place where it stands, and whether all of them are finite;
// without that, the place is 0.
struct Peak {
    float value;
    int index;
    bool finite;
};

// Sums over the logits p and q of two models in one place, each less its peak.
struct LogitSums {
    Peak peak_p, peak_q;
    double sum_p, sum_q;  // of e^p and e^q
    double difference;    // of e^p (p - q)
};

constexpr int STRIP = 32;  // columns of a strip of the KV cache, see cache.h

// The rest of a token. Arrays of float32 may lie at any address.
struct Ops {
    // x += y.
    void (*add)(float* x, const float* y, int count);
    // out = x / sqrt(mean(x^2) + eps) * weight.
    void (*rmsnorm)(const float* x, const float* weight, int count, float eps, float* out);
    // gate = silu(gate) * up.
    void (*silu_mul)(float* gate, const float* up, int count);
    // gate = gelu(gate) * up, gelu by tanh.
    void (*gelu_mul)(float* gate, const float* up, int count);
    // Turn the pairs (head[i], head[half + i]) by the angles whose cosines and sines are given.
    void (*rotate)(float* head, const float* cosines, const float* sines, int half);
    // float32 -> float16, to the nearest.
    void (*to_f16)(const float* values, int count, uint16_t* out);
    // float16 -> float32; `count` is a multiple of STRIP.
    void (*to_f32)(const uint16_t* values, int count, float* out);
    // out (rows, STRIP) = keep * out + a (rows, count) times strip (count, STRIP), by the strip's
    // type. `keep` has one factor a row; without it out = the product. Strides are in floats.
    void (*times_strip_f16)(const float* a, ptrdiff_t a_stride, int rows, const void* strip,
                            int count, const float* keep, float* out, ptrdiff_t out_stride);
    void (*times_strip_f32)(const float* a, ptrdiff_t a_stride, int rows, const void* strip,
                            int count, const float* keep, float* out, ptrdiff_t out_stride);
    // One more stretch of an online softmax: scores (keys,), a multiple of STRIP, of which the
    // first `seen` count, become exp(score - largest), and 0 from there on. `largest` and `sum` are
    // those of the row so far; returns the factor on everything added up before.
    float (*softmax_step)(float* scores, int keys, int seen, float* largest, float* sum);
    // `count` > 0 logits of two models.
    void (*compare_logits)(const float* p, const float* q, int count, LogitSums* out);
};

struct Kernels {
    const char* name;
    const Layout* const* layouts;
    int layout_count;
    int tile_x;  // activations that dot_tile multiplies fastest: as many as the registers hold
    // Dot products of TILE_ROWS rows w with n = 1..MOST_X rows x, over cols columns:
    // out[i * TILE_ROWS + r] = x[i] . w[r]. The strides are from row to row, in floats.
    void (*dot_tile)(const float* w, ptrdiff_t w_stride, const float* x, ptrdiff_t x_stride, int n,
                     int cols, float* out);
    // Activations x (n, cols) of one row to its codes; cols is a multiple of 32.
    void (*quantize)(const float* x, int row, const Quantized& out);
    // Rows of a panel, a group of activations, and as many columns as then stay in the first-level
    // cache; 0 without panels.
    int panel_rows, panel_tokens, panel_cols;
    // Products of a panel's first `height` rows, see gemm_int8.h; null without panels.
    void (*gemm_int8)(const Panel& panel, const Quantized& x, int rows, int row, int height,
                      float* out);
    // Activations and products of many tokens in bfloat16, see gemm_amx.h; null without them.
    void (*pack_activations)(const float* x, int n, int cols, int tile, uint16_t* packed);
    void (*gemm_amx)(const Layout& layout, const uint8_t* data, int rows, int cols, int start,
                     int stop, const uint16_t* packed, int n, float* scratch, float* out);
    // Sums over tokens in bfloat16, see syrk_bf16.h; null where BLAS is faster.
    void (*pack_pairs)(const float* x, ptrdiff_t stride, int tokens, int cols, int first,
                       uint32_t* packed);
    void (*syrk_bf16)(const uint32_t* a, const uint32_t* b, int pairs, int rows, int cols,
                      float* total, ptrdiff_t stride);
    const RoundingKernels* rounding;  // scale search and rounding
    Ops ops;
};

namespace baseline {
extern const Kernels kernels;
}
namespace avx2 {
extern const Kernels kernels;
}
namespace avx_vnni {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
namespace avx512_vnni {
extern const Kernels kernels;
}
namespace avx512_bf16 {
extern const Kernels kernels;
}
namespace amx {
extern const Kernels kernels;
}
namespace dotprod {
extern const Kernels kernels;
}
namespace i8mm {
extern const Kernels kernels;
}
