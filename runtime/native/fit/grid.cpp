// Fitting one block of any family; its grid, codes and values: runtime/quant_types/base.py.
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
        case LINE:
        case AFFINE: return {d, load(params + ROWS)};
        case SCALED_SUPER: return {d * load(params + (1 + sub) * ROWS), zero};
        default: break;
    }
    const Lanes minimum = load(params + ROWS) * load(integers + spec.groups * ROWS);
    return {d * load(integers), -minimum};
}

}  // namespace KERNELS
