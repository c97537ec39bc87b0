#include "matvec.h"

#include <algorithm>

#include "pool.h"

// Columns decoded at a time, a multiple of every layout's block: TILE_ROWS such rows (16 KiB) stay
// in the first-level cache.
constexpr int CHUNK = 1024;
// Activations that all tiles meet before the next activations: this many floats (1 MiB) stay in the
// second-level cache.
constexpr int X_FLOATS = 1 << 18;
// Weights (times activations) worth waking a thread for: about 30 microseconds of work.
constexpr int64_t LEAST_WORK = 1 << 17;

// Bytes of `cols` packed weights.
static size_t row_bytes(const Layout& layout, int cols) {
    return (size_t)(cols / layout.block) * layout.bytes;
}

// Items of `work` each that make LEAST_WORK.
static int least_items(int64_t work) {
    return (int)std::max<int64_t>(1, LEAST_WORK / std::max<int64_t>(1, work));
}

void decode_rows(const Layout& layout, const uint8_t* data, int rows, int cols, float* out) {
    run_parallel(rows, least_items(cols), [&](int start, int stop) {
        for (int row = start; row < stop; row++) {
            layout.decode_row(data + row * row_bytes(layout, cols), cols, out + (size_t)row * cols);
        }
    });
}

namespace {

struct Product {
    const Kernels& kernels;
    const Layout& layout;
    const uint8_t* data;
    int rows, cols;
    const float* x;
    int n;
    float* out;
};

// Columns chunk..chunk + width of `height` <= TILE_ROWS rows, against activations first..last.
void multiply_chunk(const Product& p, int row, int height, int chunk, int width, int first,
                    int last) {
    alignas(64) float w[TILE_ROWS * CHUNK];
    for (int r = 0; r < TILE_ROWS; r++) {
        // A short tile repeats its last row: the sums it does not need are thrown away.
        const size_t from = row + std::min(r, height - 1);
        const uint8_t* packed = p.data + from * row_bytes(p.layout, p.cols);
        p.layout.decode_row(packed + row_bytes(p.layout, chunk), width, w + r * CHUNK);
    }
    float sums[MOST_X * TILE_ROWS];
    for (int i = first; i < last; i += p.kernels.tile_x) {
        const int count = std::min(p.kernels.tile_x, last - i);
        p.kernels.dot_tile(w, CHUNK, p.x + (size_t)i * p.cols + chunk, p.cols, count, width, sums);
        for (int k = 0; k < count; k++) {
            float* out = p.out + (size_t)(i + k) * p.rows + row;
            for (int r = 0; r < height; r++) {
                out[r] = (chunk == 0 ? 0.0f : out[r]) + sums[k * TILE_ROWS + r];
            }
        }
    }
}

// Rows start..stop against all activations.
void multiply_rows(const Product& p, int start, int stop) {
    const int tile = p.kernels.tile_x;
    const int group = std::max(tile, X_FLOATS / p.cols / tile * tile);
    for (int first = 0; first < p.n; first += group) {
        const int last = std::min(first + group, p.n);
        for (int row = start; row < stop; row += TILE_ROWS) {
            const int height = std::min(TILE_ROWS, stop - row);
            for (int chunk = 0; chunk < p.cols; chunk += CHUNK) {
                const int width = std::min(CHUNK, p.cols - chunk);
                multiply_chunk(p, row, height, chunk, width, first, last);
            }
        }
    }
}

}  // namespace

void matvec(const Kernels& kernels, const Layout& layout, const uint8_t* data, int rows, int cols,
            const float* x, int n, float* out) {
    const Product p = {kernels, layout, data, rows, cols, x, n, out};
    const int tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    run_parallel(tiles, least_items((int64_t)TILE_ROWS * cols * n), [&](int start, int stop) {
        multiply_rows(p, start * TILE_ROWS, std::min(stop * TILE_ROWS, rows));
    });
}
