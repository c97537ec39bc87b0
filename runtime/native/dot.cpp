// Dot products of TILE_ROWS rows with one to MOST_X activations, float32.
//
// Ladder: 1 baseline (SSE2, NEON, or whatever the architecture always has), 2 avx2, 3 avx512. The
// code is the same; LANES and the compiler's flags differ. All sums of a tile run side by side,
// because one alone would wait for each addition. A sum does not depend on its neighbours.
#include "dot.h"

#include "kernels.h"
#include "simd.h"

namespace KERNELS {

// `n` is a constant at each call: inlined, the loops over it and the rows unroll into registers.
INLINE void dot_rows(const float* w, ptrdiff_t w_stride, const float* x, ptrdiff_t x_stride,
                     const int n, int cols, float* out) {
    Floats<> sums[MOST_X][TILE_ROWS];
    for (int i = 0; i < n; i++) {
        for (int r = 0; r < TILE_ROWS; r++) sums[i][r] = Floats<>{};
    }
    const int whole = cols / LANES * LANES;
    for (int col = 0; col < whole; col += LANES) {
        for (int i = 0; i < n; i++) {
            const Floats<> values = load(x + i * x_stride + col);
            for (int r = 0; r < TILE_ROWS; r++) sums[i][r] += values * load(w + r * w_stride + col);
        }
    }
    for (int i = 0; i < n; i++) {
        for (int r = 0; r < TILE_ROWS; r++) {
            float sum = total(sums[i][r]);
            for (int col = whole; col < cols; col++) {
                sum += x[i * x_stride + col] * w[r * w_stride + col];
            }
            out[i * TILE_ROWS + r] = sum;
        }
    }
}

void dot_tile(const float* w, ptrdiff_t w_stride, const float* x, ptrdiff_t x_stride, int n,
              int cols, float* out) {
    switch (n) {
        case 1: return dot_rows(w, w_stride, x, x_stride, 1, cols, out);
        case 2: return dot_rows(w, w_stride, x, x_stride, 2, cols, out);
        case 3: return dot_rows(w, w_stride, x, x_stride, 3, cols, out);
        default: return dot_rows(w, w_stride, x, x_stride, MOST_X, cols, out);
    }
}

}  // namespace KERNELS
