#include "gram.h"

#include <algorithm>

#include "pool.h"
#include "scratch.h"

void add_gram(const Kernels& kernels, TokenRows weighed, TokenRows x, int tokens, int cols,
              float* total, ptrdiff_t stride) {
    const int panels = (cols + GRAM_COLS - 1) / GRAM_COLS, pairs = (tokens + 1) / 2;
    const size_t size = (size_t)pairs * GRAM_COLS;
    const bool same = weighed.data == x.data && weighed.stride == x.stride;
    Scratch scratch;
    uint32_t* right = (uint32_t*)scratch.take((same ? 1 : 2) * panels * size * sizeof(uint32_t));
    uint32_t* left = same ? right : right + panels * size;
    run_parallel(panels, 1, [&](int start, int stop) {
        for (int panel = start; panel < stop; panel++) {
            const int first = panel * GRAM_COLS;
            kernels.pack_pairs(x.data, x.stride, tokens, cols, first, right + panel * size);
            if (same) continue;
            kernels.pack_pairs(weighed.data, weighed.stride, tokens, cols, first,
                               left + panel * size);
        }
    });
    run_parallel(panels, 1, [&](int start, int stop) {
        for (int item = start; item < stop; item++) {
            const int across = panels - 1 - item;  // those with most rows above them come first
            const int first = across * GRAM_COLS, width = std::min(GRAM_COLS, cols - first);
            for (int down = 0; down <= across; down++) {
                const int row = down * GRAM_COLS, height = std::min(GRAM_COLS, cols - row);
                kernels.add_panels(left + down * size, right + across * size, pairs, height, width,
                                   total + row * stride + first, stride);
            }
        }
    });
}
