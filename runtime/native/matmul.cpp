#include "matmul.h"

#include <algorithm>
#include <atomic>

#include "gemm_amx.h"
#include "pool.h"
#include "scratch.h"

constexpr int MOST_BLOCK = 256;  // a multiple of every layout's block
// Columns decoded at a time, a multiple of every block: TILE_ROWS such rows (16 KiB) stay
// in the first-level cache.
constexpr int CHUNK = 1024;
// Activations that all tiles meet before the next activations: this many floats (1 MiB) stay in the
// second-level cache.
constexpr int X_FLOATS = 1 << 18;
// Weights (times activations) worth waking a thread for: about 30 microseconds of work.
constexpr int64_t LEAST_WORK = 1 << 17;

// Activations from which on rows are better unpacked once for all of them.
constexpr int LEAST_TOKENS = 6;

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

// float32 throughout.
static void multiply_exactly(const Product& p) {
    const int tiles = (p.rows + TILE_ROWS - 1) / TILE_ROWS;
    run_parallel(tiles, least_items((int64_t)TILE_ROWS * p.cols * p.n), [&](int start, int stop) {
        multiply_rows(p, start * TILE_ROWS, std::min(stop * TILE_ROWS, p.rows));
    });
}

// The codes of all activations, `group` tokens side by side, in memory that the calling thread
// keeps.
static Quantized quantize(const Product& p, int group) {
    static thread_local Scratch scratch;
    const size_t groups = (p.n + group - 1) / group, count = groups * group * p.cols;
    const size_t parts = count / p.layout.width;
    float* scales = (float*)scratch.take(count + (count / 32 + 2 * parts) * sizeof(float));
    float* sums = scales + count / 32;
    int32_t* starts = (int32_t*)(sums + parts);
    int8_t* codes = (int8_t*)(starts + parts);
    const bool in_pairs = group > 1 && p.layout.short_sums;
    const Quantized x = {p.n,   p.cols, group, p.layout.width, p.layout.center,
                         codes, scales, sums,  starts,         in_pairs};
    if (p.n % group != 0) {  // what fills up the last group is zero
        const size_t last = (count - (size_t)group * p.cols), rest = count - last;
        std::fill_n(codes + last, rest, (int8_t)0);
        std::fill_n(scales + last / 32, rest / 32, 0.0f);
        std::fill_n(sums + last / p.layout.width, rest / p.layout.width, 0.0f);
        std::fill_n(starts + last / p.layout.width, rest / p.layout.width, 0);
    }
    run_parallel(p.n, least_items(p.cols), [&](int start, int stop) {
        for (int row = start; row < stop; row++) p.kernels.quantize(p.x, row, x);
    });
    return x;
}

// Rows first, first + step, .. (TILE_ROWS of them, those from `stop` on left out) with int8
// activations.
static void multiply_four(const Product& p, const Quantized& x, int first, int step, int stop) {
    const size_t stride = row_bytes(p.layout, p.cols);
    const uint8_t* rows[TILE_ROWS];
    // A short tile repeats its first row: the sums it does not need are thrown away.
    for (int r = 0; r < TILE_ROWS; r++) {
        const int row = first + r * step;
        rows[r] = p.data + (row < stop ? row : first) * stride;
    }
    float sums[MOST_X * TILE_ROWS];
    for (int i = 0; i < p.n;) {
        const int count = p.n - i >= 4 ? 4 : p.n - i >= 2 ? 2 : 1;
        p.layout.dot_rows(rows, x, i, count, sums);
        for (int k = 0; k < count; k++, i++) {
            float* out = p.out + (size_t)i * p.rows + first;
            for (int r = 0; r < TILE_ROWS && first + r * step < stop; r++) {
                out[r * step] = sums[k * TILE_ROWS + r];
            }
        }
    }
}

// A thread reads its rows as TILE_ROWS streams, each of them row after row; see layouts/dot_rows.h.
static void multiply_codes(const Product& p) {
    const Quantized x = quantize(p, 1);
    const int tiles = (p.rows + TILE_ROWS - 1) / TILE_ROWS;
    run_parallel(tiles, least_items((int64_t)TILE_ROWS * p.cols * p.n), [&](int start, int stop) {
        const int first = start * TILE_ROWS, last = std::min(stop * TILE_ROWS, p.rows);
        for (int i = 0; i < stop - start; i++) {
            multiply_four(p, x, first + i, stop - start, last);
        }
    });
}

// Where the panel's columns of rows from `row` on lie; a short panel repeats the row before `stop`.
struct PanelRows {
    const uint8_t* rows[MOST_PANEL_ROWS];
};

static PanelRows rows_of(const Product& p, const Panel& panel, int row, int stop) {
    const uint8_t* data = p.data + row_bytes(p.layout, panel.first);
    PanelRows of;
    for (int r = 0; r < p.kernels.panel_rows; r++) {
        of.rows[r] = data + std::min(row + r, stop - 1) * row_bytes(p.layout, p.cols);
    }
    return of;
}

// Columns panel.first .. panel.first + panel.cols of rows start..stop, a panel of them at a time,
// each unpacked once.
static void multiply_panels(const Product& p, const Quantized& x, int start, int stop,
                            Panel& panel) {
    const int most = p.kernels.panel_rows;
    const size_t bytes = row_bytes(p.layout, panel.cols);
    PanelRows of = rows_of(p, panel, start, stop);
    for (int row = start; row < stop; row += most) {
        p.layout.unpack_panel(of.rows, panel);
        if (row + most < stop) {  // the next ones come from memory while these are multiplied
            of = rows_of(p, panel, row + most, stop);
            for (int r = 0; r < most; r++) {
                for (size_t at = 0; at < bytes; at += 64) __builtin_prefetch(of.rows[r] + at);
            }
        }
        p.kernels.gemm_int8(panel, x, p.rows, row, std::min(most, stop - row), p.out);
    }
}

// Columns of a panel: stretches of one length, of whole blocks.
static int panel_cols(const Product& p) {
    const int stretches = (p.cols + p.kernels.panel_cols - 1) / p.kernels.panel_cols;
    const int least = (p.cols + stretches - 1) / stretches;
    return (least + MOST_BLOCK - 1) / MOST_BLOCK * MOST_BLOCK;
}

// So many columns of all activations stay near in the cache while rows pass by.
static void multiply_many_codes(const Product& p) {
    const Quantized x = quantize(p, p.kernels.panel_tokens);
    const int most = p.kernels.panel_rows;
    run_parallel((p.rows + most - 1) / most, 1, [&](int start, int stop) {
        alignas(64) uint8_t codes[MOST_PANEL];
        alignas(64) float scales[MOST_PANEL / 16], offsets[MOST_PANEL / 16];
        alignas(64) int16_t factors[2 * MOST_PANEL / 16];
        const int cols = panel_cols(p);
        for (int first = 0; first < p.cols; first += cols) {
            Panel panel = {};
            panel.first = first, panel.cols = std::min(cols, p.cols - first);
            panel.codes = codes, panel.scales = scales;
            panel.factors = factors, panel.offsets = offsets;
            multiply_panels(p, x, start * most, std::min(stop * most, p.rows), panel);
        }
    });
}

// At most TOKENS activations, in bfloat16.
static void multiply_bfloats(const Product& p) {
    static thread_local Scratch packed_scratch;
    const int x_tiles = (p.n + TILE - 1) / TILE, steps = (p.cols + TILE_COLS - 1) / TILE_COLS;
    const size_t bytes = (size_t)x_tiles * steps * TILE_SIZE * sizeof(uint16_t);
    uint16_t* packed = (uint16_t*)packed_scratch.take(bytes);
    run_parallel(x_tiles, least_items(TILE * p.cols), [&](int start, int stop) {
        for (int tile = start; tile < stop; tile++) {
            p.kernels.pack_activations(p.x, p.n, p.cols, tile, packed);
        }
    });
    const int row_tiles = (p.rows + 2 * TILE - 1) / (2 * TILE);
    run_parallel(row_tiles, 1, [&](int start, int stop) {
        static thread_local Scratch scratch;
        p.kernels.gemm_amx(p.layout, p.data, p.rows, p.cols, start * 2 * TILE,
                           std::min(stop * 2 * TILE, p.rows), packed, p.n,
                           (float*)scratch.take(SCRATCH_FLOATS * sizeof(float)), p.out);
    });
}

static std::atomic<bool> exact_products{false};

void set_exact(bool exact) { exact_products = exact; }
bool is_exact() { return exact_products; }

void matmul(const Kernels& kernels, const Layout& layout, const uint8_t* data, int rows, int cols,
            const float* x, int n, float* out) {
    const Product p = {kernels, layout, data, rows, cols, x, n, out};
    if (is_exact() || n == 0) return multiply_exactly(p);
    if (n >= LEAST_TOKENS && kernels.gemm_amx && layout.decode_bfloat) {
        for (int first = 0; first < n; first += TOKENS) {
            const int count = std::min(TOKENS, n - first);
            multiply_bfloats({kernels, layout, data, rows, cols, x + (size_t)first * cols, count,
                              out + (size_t)first * rows});
        }
        return;
    }
    if (n >= LEAST_TOKENS && layout.unpack_panel) return multiply_many_codes(p);
    if (layout.dot_rows) return multiply_codes(p);
    multiply_exactly(p);
}
