// Fitting one block of any family; its grid, codes and values: runtime/blocks/base.py.
#include "fitters.h"

namespace KERNELS {

void fit_block(const Spec& spec, const float* w, const float* weight, float* params) {
    float x[MOST_SIZE * ROWS], weighted[MOST_SIZE * ROWS];
    if (spec.family == SYMMETRIC || spec.family == AFFINE) {
        for (int i = 0; i < spec.size; i++) store(x + i * ROWS, load(w + i * ROWS));
        fit_onnx(spec, x, weight, params);
        return;
    }
    const Lanes most = all(0x1p40f);  // past every float16 scale, and its square is finite
    for (int i = 0; i < spec.size; i++) {
        const Lanes here = clip(load(w + i * ROWS), -most, most);
        store(x + i * ROWS, here);
        store(weighted + i * ROWS, weight[i] * here);
    }
    switch (spec.family) {
        case SCALED: fit_scaled(spec, x, weighted, weight, params); break;
        case LINE: fit_line(spec, x, weighted, weight, params); break;
        case SCALED_SUPER: fit_scaled_super(spec, x, weighted, weight, params); break;
        default: fit_line_super(spec, x, weighted, weight, params);
    }
}

Grid grid_of(const Spec& spec, const float* params, int sub) {
    const Lanes d = load(params), zero = all(-0.0f);
    const float* integers = params + (2 + sub) * ROWS;
    switch (spec.family) {
        case SCALED: return {d, zero};
        case SYMMETRIC: return {d, all((float)spec.middle)};
        case LINE: case AFFINE: return {d, load(params + ROWS)};
        case SCALED_SUPER: return {d * load(params + (1 + sub) * ROWS), zero};
        default: break;
    }
    const Lanes minimum = load(params + ROWS) * load(integers + spec.groups * ROWS);
    return {d * load(integers), -minimum};
}

Lanes code_of(const Spec& spec, Lanes w, Grid grid) {
    const Bits dead = grid.scale == 0.0f;
    if (spec.nearest) {
        const Lanes x = (dead ? all(0.0f) : w) / guarded(grid.scale);
        const Lanes steps = clip(floored(x + x), all(spec.lowest), all(spec.highest)) - spec.lowest;
        return numbers_of((Bits)look_up((const float*)spec.nearest, integers_of(steps)));
    }
    const bool onnx = spec.family == SYMMETRIC || spec.family == AFFINE;
    const Lanes over = onnx ? w : w - grid.offset;
    Lanes code = nearest(over / (dead ? all(1.0f) : grid.scale));
    code = dead ? all(0.0f) : code;
    if (onnx) code += grid.offset;
    return clip(code, all((float)spec.low), all((float)spec.high)) + 0.0f;
}

Lanes value_of(const Spec& spec, Lanes code, Grid grid) {
    if (spec.points) return grid.scale * look_up(spec.points, integers_of(code));
    if (spec.family == SYMMETRIC || spec.family == AFFINE) {
        return (code - grid.offset) * grid.scale;
    }
    return code * grid.scale + grid.offset;
}

}  // namespace KERNELS
