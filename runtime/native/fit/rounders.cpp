// Tiles of ROWS rows, turned so that a column is contiguous; every lane works on a row of its own.
#include "rounders.h"

#include "fitters.h"

namespace KERNELS {

// Planes of columns start..start + cols; a tile with fewer rows repeats its last one.
static void read_planes(Strided<const float> w, int rows, int start, int cols, float* planes) {
    for (int row = 0; row < ROWS; row++) {
        const float* from = w.data + (row < rows ? row : rows - 1) * w.stride + start * w.step;
        for (int col = 0; col < cols; col++) planes[col * ROWS + row] = from[col * w.step];
    }
}

// Planes (count, ROWS) -> rows of `count` numbers, by way of the type `Whole`.
template <typename Whole, typename Number>
static void write_planes(const float* planes, int rows, int count, Number* out, ptrdiff_t stride,
                         ptrdiff_t step) {
    for (int row = 0; row < rows; row++) {
        Number* to = out + row * stride;
        for (int i = 0; i < count; i++) to[i * step] = (Number)(Whole)planes[i * ROWS + row];
    }
}

// All lanes of a block.
static void fit_planes(const Spec& spec, const float* w, const float* weight, float* params) {
    for (int lane = 0; lane < ROWS; lane += LANES) {
        fit_block(spec, w + lane, weight, params + lane);
    }
}

static void fit(const Spec& spec, Strided<const float> w, const float* weight, int rows, int cols,
                float* params) {
    float planes[MOST_SIZE * ROWS], fitted[MOST_PARAMS * ROWS];
    const int count = spec.params;
    const ptrdiff_t stride = (ptrdiff_t)(cols / spec.size) * count;
    for (int start = 0; start < cols; start += spec.size, params += count) {
        read_planes(w, rows, start, spec.size, planes);
        fit_planes(spec, planes, weight + start, fitted);
        write_planes<float>(fitted, rows, count, params, stride, 1);
    }
}

// Codes of a block in place of its weights; adds errors and squares to the lanes of `sums`.
static void round_planes(const Spec& spec, const float* params, float* planes) {
    for (int lane = 0; lane < ROWS; lane += LANES) {
        for (int sub = 0; sub < spec.groups; sub++) {
            const Grid grid = grid_of(spec, params + lane, sub);
            for (int i = sub * spec.group; i < (sub + 1) * spec.group; i++) {
                float* at = planes + i * ROWS + lane;
                store(at, code_of(spec, load(at), grid));
            }
        }
    }
}

static void quantize(const Spec& spec, Strided<const float> w, const float* weight, int rows,
                     int cols, float* params, uint8_t* codes, double* sums) {
    (void)sums;
    float planes[MOST_SIZE * ROWS], fitted[MOST_PARAMS * ROWS];
    const int count = spec.params;
    const ptrdiff_t stride = (ptrdiff_t)(cols / spec.size) * count;
    for (int start = 0; start < cols; start += spec.size, params += count) {
        read_planes(w, rows, start, spec.size, planes);
        fit_planes(spec, planes, weight + start, fitted);
        write_planes<float>(fitted, rows, count, params, stride, 1);
        round_planes(spec, fitted, planes);
        write_planes<int32_t>(planes, rows, spec.size, codes + start, cols, 1);
    }
}

extern const Rounders rounders;
const Rounders rounders = {fit, quantize, nullptr};

}  // namespace KERNELS
