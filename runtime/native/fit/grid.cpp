// Fitting one block of any layout; its grid, codes and values: runtime/quant_types/base.py.
#include "fitters.h"

namespace KERNELS {

void fit_block(const Spec& spec, const float* w, const float* weight, float* params) {
    float x[MOST_SIZE * ROWS], weighted[MOST_SIZE * ROWS];
    if (spec.search == ONNX) {
        for (int i = 0; i < spec.size; i++) store(x + i * ROWS, load(w + i * ROWS));
        fit_onnx(spec, x, weight, params);
        return;
    }
    const Floats<> most = repeat(0x1p40f);  // past every float16 scale, and its square is finite
    for (int i = 0; i < spec.size; i++) {
        const Floats<> here = clip(load(w + i * ROWS), -most, most);
        store(x + i * ROWS, here);
        store(weighted + i * ROWS, weight[i] * here);
    }
    const bool symmetric = spec.form == SYMMETRIC;
    if (spec.search == SUPER) {
        (symmetric ? fit_symmetric_super : fit_affine_super)(spec, x, weighted, weight, params);
    } else {
        (symmetric ? fit_symmetric : fit_affine)(spec, x, weighted, weight, params);
    }
}

Grid grid_of(const Spec& spec, const float* params, int sub) {
    const Floats<> d = load(params);
    const float* first = params + (spec.form == SYMMETRIC ? 1 : 2) * ROWS;
    if (spec.search == SUPER) {
        const Floats<> scale = d * load(first + sub * ROWS);
        if (spec.form == SYMMETRIC) return {scale, repeat(-0.0f)};
        return {scale, -(load(params + ROWS) * load(first + (spec.groups + sub) * ROWS))};
    }
    if (spec.form != SYMMETRIC) return {d, load(params + ROWS)};
    return {d, repeat(spec.search == ONNX ? (float)spec.middle : -0.0f)};
}

}  // namespace KERNELS
