// The searches of runtime/quant_types/fitting.py on one group of weights, a row in each lane.
#pragma once

#include "lanes.h"
#include "spec.h"

namespace KERNELS {

// Weights that share one scale: plane i is x[i * ROWS], with the importance weight[i].
struct Group {
    const float* x;
    const float* weighted;  // weight * x
    const float* weight;
    int size;
    float mass;   // sum of weight
    Lanes first;  // sum of weight * x
};

Group new_group(const float* x, const float* weighted, const float* weight, int size);

struct Line {
    Lanes scale, offset;
};

// Importance-weighted sums of code, code * code and code * x.
struct Sums {
    Lanes codes, energy, cross;
};

Lanes greatest(const float* x, int size);
Lanes least(const float* x, int size);

// The scale of least squared error for weight = point * scale.
Lanes search_scale(const Spec& spec, const Group& group);
// Sums of point * point and point * x (in `energy` and `cross`) for the points that 1 / inverse
// rounds to.
Sums scale_sums(const Spec& spec, const Group& group, Lanes inverse);

// The line of least squared error for weight = code * scale + offset.
Line search_line(const Spec& spec, const Group& group, bool below);
Sums line_sums(const Spec& spec, const Group& group, Line line);
Lanes loss(const Group& group, const Sums& sums, Line line);
Line best_line(const Group& group, const Sums& sums, Line line, bool below);

}  // namespace KERNELS
