#include "syrk.h"

#include <algorithm>

#include "pool.h"
#include "scratch.h"

void syrk(const Kernels& kernels, TokenRows weighed, TokenRows x, int tokens, int cols,
          float* total, ptrdiff_t stride) {
    const int panels = (cols + SYRK_COLS - 1) / SYRK_COLS, pairs = (tokens + 1) / 2;
    const size_t size = (size_t)pairs * SYRK_COLS;
    const bool same = weighed.data == x.data && weighed.stride == x.stride;
    Scratch scratch;
    uint32_t* right = (uint32_t*)scratch.take((same ? 1 : 2) * panels * size * sizeof(uint32_t));
    uint32_t* left = same ? right : right + panels * size;
    run_parallel(panels, 1, [&](int start, int stop) {
        for (int panel = start; panel < stop; panel++) {
            const int first = panel * SYRK_COLS;
            kernels.pack_pairs(x.data, x.stride, tokens, cols, first, right + panel * size);
            if (same) continue;
            kernels.pack_pairs(weighed.data, weighed.stride, tokens, cols, first,
                               left + panel * size);
        }
    });
    run_parallel(panels, 1, [&](int start, int stop) {
        for (int item = start; item < stop; item++) {
            const int across = panels - 1 - item;  // those with most rows above them come first
            const int first = across * SYRK_COLS, width = std::min(SYRK_COLS, cols - first);
            for (int down = 0; down <= across; down++) {
                const int row = down * SYRK_COLS, height = std::min(SYRK_COLS, cols - row);
                kernels.syrk_bf16(left + down * size, right + across * size, pairs, height, width,
                                  total + row * stride + first, stride);
            }
        }
    });
}
