// Tiles of ROWS rows, turned so that a column is contiguous; every lane works on a row of its own.
#include "rounding_kernels.h"

#include "fitters.h"
#include "packers.h"

namespace KERNELS {

// Planes of columns start..start + cols; a tile with fewer rows repeats its last one.
static void read_planes(Strided<const float> w, int rows, int start, int cols, float* planes) {
    for (int row = 0; row < ROWS; row++) {
        const float* from = w.data + (row < rows ? row : rows - 1) * w.stride + start * w.step;
        for (int col = 0; col < cols; col++) planes[col * ROWS + row] = from[col * w.step];
    }
}

// The same from packed rows.
static void decode_planes(const Source& source, int rows, int start, int cols, float* planes) {
    float values[MOST_SIZE];
    for (int row = 0; row < rows; row++) {
        const uint8_t* from = source.data + row * source.row_bytes + (size_t)start * source.bytes;
        source.decode_row(from, cols, values);
        for (int col = 0; col < cols; col++) planes[col * ROWS + row] = values[col];
    }
    for (int row = rows; row < ROWS; row++) {
        for (int col = 0; col < cols; col++) planes[col * ROWS + row] = values[col];
    }
}

// Planes (count, ROWS) -> rows of `count` numbers, by way of the type `Whole`.
template <typename Whole, typename Number>
static void write_planes(const float* planes, int rows, int count, Strided<Number> out) {
    for (int row = 0; row < rows; row++) {
        Number* to = out.data + row * out.stride;
        for (int i = 0; i < count; i++) to[i * out.step] = (Number)(Whole)planes[i * ROWS + row];
    }
}

// A matrix (columns, rows) as one of (rows, columns).
template <typename Number>
static Strided<Number> turned(Strided<Number> matrix) {
    return {matrix.data, matrix.step, matrix.stride};
}

static Strided<const float> as_const(Strided<float> matrix) {
    return {matrix.data, matrix.stride, matrix.step};
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
        write_planes<float>(fitted, rows, count, Strided<float>{params, stride, 1});
    }
}

// Sums of one block, a row in each lane.
struct LaneLosses {
    float error[ROWS], energy[ROWS], invalid[ROWS];
};

// The codes of a block in place of its weights, and its losses.
static void round_planes(const Spec& spec, const float* params, const float* importance,
                         float* planes, LaneLosses& losses) {
    for (int lane = 0; lane < ROWS; lane += LANES) {
        Floats<> error = {}, energy = {}, invalid = {};
        for (int sub = 0; sub < spec.groups; sub++) {
            const Grid grid = grid_of(spec, params + lane, sub);
            for (int i = sub * spec.group; i < (sub + 1) * spec.group; i++) {
                float* at = planes + i * ROWS + lane;
                const Floats<> x = load(at), code = code_of(spec, x, grid);
                const Floats<> miss = x - value_of(spec, code, grid);
                error += importance[i] * (miss * miss);
                energy += importance[i] * (x * x);
                invalid += x * 0.0f;
                store(at, code);
            }
        }
        store(losses.error + lane, error);
        store(losses.energy + lane, energy);
        store(losses.invalid + lane, invalid);
    }
}

static void add_losses(const LaneLosses& block, int rows, Losses& sums) {
    for (int row = 0; row < rows; row++) {
        sums.error += (double)block.error[row];
        sums.energy += (double)block.energy[row];
        sums.invalid += (double)block.invalid[row];
    }
}

// The bytes of a block in each row.
static void pack_planes(const Spec& spec, const Packer& packer, const float* codes,
                        const float* params, int rows, uint8_t* out, size_t row_bytes) {
    uint8_t bytes[ROWS * MOST_SIZE];
    float numbers[ROWS * MOST_PARAMS];
    write_planes<int32_t>(codes, rows, spec.size, Strided<uint8_t>{bytes, spec.size, 1});
    write_planes<float>(params, rows, spec.params, Strided<float>{numbers, spec.params, 1});
    for (int row = 0; row < rows; row++) {
        packer.pack(bytes + row * spec.size, numbers + row * spec.params, out + row * row_bytes);
    }
}

static Losses quantize(const Spec& spec, const Packer& packer, const Rows& tile) {
    float planes[MOST_SIZE * ROWS], params[MOST_PARAMS * ROWS];
    uint8_t* out = tile.out;
    Losses sums = {};
    LaneLosses block;
    for (int start = 0; start < tile.cols; start += spec.size, out += packer.bytes) {
        decode_planes(tile.source, tile.count, start, spec.size, planes);
        fit_planes(spec, planes, tile.weight + start, params);
        round_planes(spec, params, tile.importance + start, planes, block);
        add_losses(block, tile.count, sums);
        pack_planes(spec, packer, planes, params, tile.count, out, tile.out_bytes);
    }
    return sums;
}

// The lanes of a window: planes of codes and values; the weights w change.
static void gptq_lanes(const Spec& spec, const Window& tile, float* w, float* params, float* codes,
                       float* value) {
    for (int first = 0; first < tile.cols; first += spec.size, params += spec.params * ROWS) {
        fit_block(spec, w + first * ROWS, tile.weight + first, params);
        for (int col = first; col < first + spec.size; col++) {
            const Grid grid = grid_of(spec, params, (col - first) / spec.group);
            const float* upper = tile.upper.data + col * tile.upper.stride;
            const Floats<> x = load(w + col * ROWS), code = code_of(spec, x, grid);
            const Floats<> chosen = value_of(spec, code, grid), error = (x - chosen) / upper[col];
            store(codes + col * ROWS, code);
            store(value + col * ROWS, chosen);
            for (int after = col + 1; after < tile.cols; after++) {
                float* at = w + after * ROWS;
                store(at, load(at) - error * upper[after]);
            }
        }
    }
}

static void gptq(const Spec& spec, const Window& tile) {
    float planes[MOST_SIZE * ROWS], codes[MOST_SIZE * ROWS], value[MOST_SIZE * ROWS];
    float params[MOST_PARAMS * ROWS];  // blocks of 32, eight in a window, have 2 at most
    const int count = tile.cols / spec.size * spec.params;
    read_planes(tile.w, tile.rows, 0, tile.cols, planes);
    for (int lane = 0; lane < ROWS; lane += LANES) {
        gptq_lanes(spec, tile, planes + lane, params + lane, codes + lane, value + lane);
    }
    write_planes<int32_t>(codes, tile.rows, tile.cols, tile.codes);
    write_planes<float>(value, tile.rows, tile.cols, tile.value);
    write_planes<float>(params, tile.rows, count, Strided<float>{tile.params, count, 1});
}

// The lanes of a block: codes, and value and pull as they change.
static void recode_lanes(const Spec& spec, const Descent& tile, const float* scale,
                         const float* offset, float* codes, float* value, float* pull) {
    for (int at = 0; at < spec.size; at++) {
        const int col = tile.start + at;
        const float* hessian = tile.hessian.data + col * tile.hessian.stride;
        const Grid grid = {load(scale + at * ROWS), load(offset + at * ROWS)};
        const Floats<> old = load(value + at * ROWS);
        const Floats<> best = old + load(pull + col * ROWS) / hessian[col];
        const Floats<> code = code_of(spec, best, grid), fresh = value_of(spec, code, grid);
        const Floats<> step = fresh - old;
        store(codes + at * ROWS, code);
        store(value + at * ROWS, fresh);
        for (int after = col + 1; after < tile.cols; after++) {
            float* to = pull + after * ROWS;
            store(to, load(to) - hessian[after] * step);
        }
    }
}

static void recode(const Spec& spec, const Descent& tile) {
    float scale[MOST_SIZE * ROWS], offset[MOST_SIZE * ROWS], pull[MOST_SIZE * ROWS];
    float codes[MOST_SIZE * ROWS], value[MOST_SIZE * ROWS];
    read_planes(turned(tile.scale), tile.rows, 0, spec.size, scale);
    read_planes(turned(tile.offset), tile.rows, 0, spec.size, offset);
    read_planes(turned(as_const(tile.value)), tile.rows, 0, spec.size, value);
    read_planes(turned(as_const(tile.pull)), tile.rows, 0, tile.cols, pull);
    for (int lane = 0; lane < ROWS; lane += LANES) {
        recode_lanes(spec, tile, scale + lane, offset + lane, codes + lane, value + lane,
                     pull + lane);
    }
    write_planes<int32_t>(codes, tile.rows, spec.size, turned(tile.codes));
    write_planes<float>(value, tile.rows, spec.size, turned(tile.value));
    write_planes<float>(pull, tile.rows, tile.cols, turned(tile.pull));
}

extern const RoundingKernels rounding;
const RoundingKernels rounding = {PACKERS, PACKER_COUNT, fit, quantize, gptq, recode};

}  // namespace KERNELS
