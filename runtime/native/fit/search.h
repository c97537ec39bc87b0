// The searches of runtime/quant_types/fitting.py on one group of weights, a row in each lane.
#pragma once

#include "simd.h"
#include "spec.h"

namespace KERNELS {

// x, to divide by: 1 is added to what is smaller than 2^-60.
INLINE Floats<> guarded(Floats<> x) {
    return x + (absolute(x) < 0x1p-60f ? repeat(1.0f) : repeat(0.0f));
}

// Half steps from `lowest` to the floor of 2 x, no further than `highest`; 0 for NaN, so that what
// is damaged never reads past a table.
INLINE Ints<> half_steps(Floats<> x, float lowest, float highest) {
    Floats<> steps = floored(x + x);
    steps = steps > lowest ? steps : repeat(lowest);
    return integers_of(at_most(steps, repeat(highest)) - lowest);
}

// Sum of `count` (a power of two) numbers by halves, as runtime.quant_types.fitting.total adds
// them.
INLINE Floats<> total(Floats<>* x, int count) {
    for (int half = count / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) x[i] += x[i + half];
    }
    return x[0];
}

// Weights that share one scale: plane i is x[i * ROWS], with the importance weight[i].
struct Group {
    const float* x;
    const float* weighted;  // weight * x
    const float* weight;
    int size;
    float mass;      // sum of weight
    Floats<> first;  // sum of weight * x
};

Group new_group(const float* x, const float* weighted, const float* weight, int size);

struct Line {
    Floats<> scale, offset;
};

// Importance-weighted sums of code, code * code and code * x.
struct Sums {
    Floats<> codes, energy, cross;
};

Floats<> greatest(const float* x, int size);
Floats<> least(const float* x, int size);

// The scale of least squared error for weight = point * scale.
Floats<> search_scale(const Spec& spec, const Group& group);
// Sums of point * point and point * x (in `energy` and `cross`) for the points that 1 / inverse
// rounds to.
Sums scale_sums(const Spec& spec, const Group& group, Floats<> inverse);

// The line of least squared error for weight = code * scale + offset.
Line search_line(const Spec& spec, const Group& group, bool below);
Sums line_sums(const Spec& spec, const Group& group, Line line);
Floats<> loss(const Group& group, const Sums& sums, Line line);
Line best_line(const Group& group, const Sums& sums, Line line, bool below);

}  // namespace KERNELS
