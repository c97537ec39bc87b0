// The scale search of every kind of layout, and the grid that its result spans.
//
// A block is `size` planes of ROWS numbers, of which the first LANES are worked on; its importance
// is one number a plane. `params` are Spec::params planes.
#pragma once

#include "search.h"

namespace KERNELS {

void fit_symmetric(const Spec& spec, const float* x, const float* weighted, const float* weight,
                   float* params);
void fit_affine(const Spec& spec, const float* x, const float* weighted, const float* weight,
                float* params);
void fit_symmetric_super(const Spec& spec, const float* x, const float* weighted,
                         const float* weight, float* params);
void fit_affine_super(const Spec& spec, const float* x, const float* weighted, const float* weight,
                      float* params);
// Of the ONNX layouts; `x` is used up.
void fit_onnx(const Spec& spec, float* x, const float* weight, float* params);

// Any of them, for a block of weights w as they are; `weight` is what `block_weights` made.
void fit_block(const Spec& spec, const float* w, const float* weight, float* params);

// What a weight is read with, as Block.grid says.
struct Grid {
    Floats<> scale, offset;
};

// The grid of group `sub` of a block.
Grid grid_of(const Spec& spec, const float* params, int sub);
// Block.code and Block.value; a code is a whole number, never -0.0.
INLINE Floats<> code_of(const Spec& spec, Floats<> w, Grid grid) {
    const Ints<> dead = grid.scale == 0.0f;
    if (spec.nearest) {
        const Floats<> x = (dead ? repeat(0.0f) : w) / guarded(grid.scale);
        return look_up(spec.nearest, half_steps(x, spec.lowest, spec.highest));
    }
    const bool onnx = spec.search == ONNX;
    const Floats<> over = onnx ? w : w - grid.offset;
    Floats<> code = nearest(over / (dead ? repeat(1.0f) : grid.scale));
    code = dead ? repeat(0.0f) : code;
    if (onnx) code += grid.offset;
    return clip(code, repeat((float)spec.low), repeat((float)spec.high)) + 0.0f;
}

INLINE Floats<> value_of(const Spec& spec, Floats<> code, Grid grid) {
    if (spec.points) return grid.scale * look_up(spec.points, integers_of(code));
    if (spec.search == ONNX) {
        return (code - grid.offset) * grid.scale;
    }
    return code * grid.scale + grid.offset;
}

}  // namespace KERNELS
