// See gemm_amx.h. The order of the loops keeps each operand where it is read fast: a panel of 32
// rows by 512 columns in the first-level cache, the activations of 512 columns and the sums of 256
// rows in the second-level one.
#include "gemm_amx.h"

#if defined(__AMX_BF16__)
#include "simd.h"

namespace KERNELS {

// Sixteen registers of sixteen 32-bit numbers, transposed.
INLINE void transpose(__m512i rows[16]) {
    __m512i pairs[16];
    for (int i = 0; i < 16; i += 2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    // rows[4 i + k]: in each 128-bit part p, column 4 p + k of rows 4 i .. 4 i + 3
    for (int i = 0; i < 16; i += 4) {
        rows[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
        rows[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
        rows[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        rows[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    for (int k = 0; k < 4; k++) {
        const __m512i even_top = _mm512_shuffle_i32x4(rows[k], rows[k + 4], 0x88);
        const __m512i odd_top = _mm512_shuffle_i32x4(rows[k], rows[k + 4], 0xdd);
        const __m512i even_end = _mm512_shuffle_i32x4(rows[k + 8], rows[k + 12], 0x88);
        const __m512i odd_end = _mm512_shuffle_i32x4(rows[k + 8], rows[k + 12], 0xdd);
        pairs[k] = _mm512_shuffle_i32x4(even_top, even_end, 0x88);
        pairs[k + 4] = _mm512_shuffle_i32x4(odd_top, odd_end, 0x88);
        pairs[k + 8] = _mm512_shuffle_i32x4(even_top, even_end, 0xdd);
        pairs[k + 12] = _mm512_shuffle_i32x4(odd_top, odd_end, 0xdd);
    }
    for (int i = 0; i < 16; i++) rows[i] = pairs[i];
}

static int tiles_of(int count, int size) { return (count + size - 1) / size; }

void pack_activations(const float* x, int n, int cols, int tile, uint16_t* packed) {
    const int steps = tiles_of(cols, TILE_COLS);
    for (int step = 0; step < steps; step++) {
        const int left = cols - step * TILE_COLS;
        const uint32_t columns = left >= 32 ? ~0u : (1u << left) - 1;
        __m512i pairs[TILE];
        for (int i = 0; i < TILE; i++) {
            const int token = tile * TILE + i;
            const uint32_t mask = token < n ? columns : 0;
            const float* from = x + (size_t)(token < n ? token : 0) * cols + step * TILE_COLS;
            const __m512 low = _mm512_maskz_loadu_ps((__mmask16)mask, from);
            const __m512 high = _mm512_maskz_loadu_ps((__mmask16)(mask >> 16), from + 16);
            pairs[i] = (__m512i)_mm512_cvtne2ps_pbh(high, low);
        }
        transpose(pairs);
        uint16_t* to = packed + ((size_t)tile * steps + step) * TILE_SIZE;
        for (int i = 0; i < TILE; i++) _mm512_storeu_si512(to + 32 * i, pairs[i]);
    }
}

// All eight tiles are 16 rows of 64 bytes.
static void configure() {
    struct alignas(64) {
        uint8_t palette = 1, start = 0, reserved[14] = {};
        uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } all;
    static_assert(sizeof all == 64);
    _tile_loadconfig(&all);
}

// Two tiles of rows with two of activations: sums[0..3], each a tile, over `steps` steps. Tiles
// 0..3 are the sums [row tile][activation tile], 4 and 5 weights, 6 and 7 activations.
static void multiply_2x2(const uint16_t* w, const uint16_t* x, ptrdiff_t x_stride, int steps,
                         float* sums, ptrdiff_t next_rows, bool first) {
    if (first) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, sums, 64);
        _tile_loadd(1, sums + 256, 64);
        _tile_loadd(2, sums + next_rows, 64);
        _tile_loadd(3, sums + next_rows + 256, 64);
    }
    for (int step = 0; step < steps; step++, w += 2 * TILE_SIZE, x += TILE_SIZE) {
        _tile_loadd(4, w, 64);
        _tile_loadd(6, x, 64);
        _tile_loadd(7, x + x_stride, 64);
        _tile_loadd(5, w + TILE_SIZE, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + 256, 64);
    _tile_stored(2, sums + next_rows, 64);
    _tile_stored(3, sums + next_rows + 256, 64);
}

// One tile of activations; the second is of no use.
static void multiply_2x1(const uint16_t* w, const uint16_t* x, int steps, float* sums,
                         ptrdiff_t next_rows, bool first) {
    if (first) {
        _tile_zero(0);
        _tile_zero(2);
    } else {
        _tile_loadd(0, sums, 64);
        _tile_loadd(2, sums + next_rows, 64);
    }
    for (int step = 0; step < steps; step++, w += 2 * TILE_SIZE, x += TILE_SIZE) {
        _tile_loadd(4, w, 64);
        _tile_loadd(6, x, 64);
        _tile_loadd(5, w + TILE_SIZE, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(2, 5, 6);
    }
    _tile_stored(0, sums, 64);
    _tile_stored(2, sums + next_rows, 64);
}

// A tile of sums [row][activation] to out (n, rows).
static void write_tile(const float* sums, int height, int count, size_t rows, float* out) {
    __m512i values[TILE];
    for (int i = 0; i < TILE; i++) values[i] = _mm512_loadu_si512(sums + TILE * i);
    transpose(values);
    const __mmask16 mask = (__mmask16)((1u << height) - 1);
    for (int i = 0; i < count; i++) _mm512_mask_storeu_epi32(out + i * rows, mask, values[i]);
}

struct Job {
    const Layout& layout;
    const uint8_t* data;
    int rows, cols;
    const uint16_t* packed;
    int n;
    uint16_t* panel;  // [step][row tile 2][row 16][column 32]
    float* sums;      // [row tile][activation tile][row 16][activation 16]
    float* out;
};

// 32 rows from `row` on, some of which may not exist, times all activations, over one depth.
static void multiply_panel(const Job& job, int row, int stop, int step, float* sums) {
    const int all_steps = tiles_of(job.cols, TILE_COLS), x_tiles = tiles_of(job.n, TILE);
    const int steps = all_steps - step < DEPTH ? all_steps - step : DEPTH;
    const int col = step * TILE_COLS;
    const int width = job.cols - col < steps * TILE_COLS ? job.cols - col : steps * TILE_COLS;
    const size_t row_bytes = (size_t)(job.cols / job.layout.block) * job.layout.bytes;
    const size_t offset = (size_t)(col / job.layout.block) * job.layout.bytes;
    for (int i = 0; i < 2 * TILE && row + i < stop; i++) {
        const uint8_t* from = job.data + (row + i) * row_bytes + offset;
        job.layout.decode_bfloat(from, width, 2 * TILE_SIZE, job.panel + i * TILE_COLS);
    }
    const ptrdiff_t x_stride = (ptrdiff_t)all_steps * TILE_SIZE, next_rows = x_tiles * 256;
    const uint16_t* x = job.packed + (size_t)step * TILE_SIZE;
    int tile = 0;
    for (; tile + 2 <= x_tiles; tile += 2) {
        multiply_2x2(job.panel, x + tile * x_stride, x_stride, steps, sums + tile * 256, next_rows,
                     step == 0);
    }
    if (tile < x_tiles) {
        multiply_2x1(job.panel, x + tile * x_stride, steps, sums + tile * 256, next_rows,
                     step == 0);
    }
}

// Up to GROUP_ROWS rows from `row` on.
static void multiply_group(const Job& job, int row, int stop) {
    const int all_steps = tiles_of(job.cols, TILE_COLS), x_tiles = tiles_of(job.n, TILE);
    for (int step = 0; step < all_steps; step += DEPTH) {
        for (int at = row; at < stop; at += 2 * TILE) {
            float* sums = job.sums + (size_t)((at - row) / TILE) * x_tiles * 256;
            multiply_panel(job, at, stop, step, sums);
        }
    }
    // activation after activation: each writes one run of memory
    for (int first = 0; first < job.n; first += TILE) {
        const int count = job.n - first < TILE ? job.n - first : TILE;
        for (int at = row; at < stop; at += TILE) {
            const int height = stop - at < TILE ? stop - at : TILE;
            const int tile = (at - row) / TILE * x_tiles + first / TILE;
            write_tile(job.sums + (size_t)tile * 256, height, count, job.rows,
                       job.out + (size_t)first * job.rows + at);
        }
    }
}

void gemm_amx(const Layout& layout, const uint8_t* data, int rows, int cols, int start, int stop,
              const uint16_t* packed, int n, float* scratch, float* out) {
    uint16_t* panel = (uint16_t*)scratch;
    const Job job = {layout, data, rows, cols, packed, n, panel, scratch + DEPTH * TILE_SIZE, out};
    configure();
    for (int row = start; row < stop; row += GROUP_ROWS) {
        multiply_group(job, row, stop - row < GROUP_ROWS ? stop : row + GROUP_ROWS);
    }
    _tile_release();
}

}  // namespace KERNELS
#endif
