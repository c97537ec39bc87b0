// The search for the scales of a block: candidates tried, and the best of them refined.
#include "search.h"

namespace KERNELS {

constexpr int MOST_QUARTER = 32;  // groups have up to 128 weights

static float total_of(const float* x, int count) {
    float sums[MOST_SIZE];
    memcpy(sums, x, sizeof(float) * count);
    for (int half = count / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) sums[i] += sums[i + half];
    }
    return sums[0];
}

// Sum of planes 0..size - 1 by halves: the first two halvings at once, which keeps few sums.
static Floats<> total_planes(const float* x, int size) {
    Floats<> sums[MOST_QUARTER];
    const int quarter = size / 4;
    for (int i = 0; i < quarter; i++) {
        const float* at = x + i * ROWS;
        const int step = quarter * ROWS;
        sums[i] = (load(at) + load(at + 2 * step)) + (load(at + step) + load(at + 3 * step));
    }
    return total(sums, quarter);
}

Group new_group(const float* x, const float* weighted, const float* weight, int size) {
    return {x, weighted, weight, size, total_of(weight, size), total_planes(weighted, size)};
}

Floats<> greatest(const float* x, int size) {
    Floats<> most = load(x);
    for (int i = 1; i < size; i++) most = at_least(load(x + i * ROWS), most);
    return most;
}

Floats<> least(const float* x, int size) {
    Floats<> lowest = load(x);
    for (int i = 1; i < size; i++) lowest = at_most(load(x + i * ROWS), lowest);
    return lowest;
}

// Points of a table: every half step of the grid of scale 1 has its nearest one.
static INLINE Floats<> snap_to_table(const Spec& spec, Floats<> x) {
    return look_up(spec.snapped, half_steps(x, spec.lowest, spec.highest));
}

// The sums of a group whose points `snap` finds; each quarter of the group in one step.
template <typename Snap>
static INLINE Sums sums_of_points(const Group& g, Snap snap) {
    Floats<> energies[MOST_QUARTER], crosses[MOST_QUARTER];
    const int quarter = g.size / 4;
    for (int i = 0; i < quarter; i++) {
        Floats<> energy[4], cross[4];
        for (int part = 0; part < 4; part++) {
            const int at = i + part * quarter;
            const Floats<> point = snap(load(g.x + at * ROWS));
            energy[part] = g.weight[at] * point * point;
            cross[part] = load(g.weighted + at * ROWS) * point;
        }
        energies[i] = (energy[0] + energy[2]) + (energy[1] + energy[3]);
        crosses[i] = (cross[0] + cross[2]) + (cross[1] + cross[3]);
    }
    return {Floats<>{}, total(energies, quarter), total(crosses, quarter)};
}

Sums scale_sums(const Spec& spec, const Group& group, Floats<> inverse) {
    if (spec.snapped) {
        return sums_of_points(group, [&](Floats<> x) { return snap_to_table(spec, x * inverse); });
    }
    const Floats<> low = repeat((float)spec.low), high = repeat((float)spec.high);
    return sums_of_points(group, [&](Floats<> x) { return clip(nearest(x * inverse), low, high); });
}

Floats<> search_scale(const Spec& spec, const Group& group) {
    const Floats<> top = greatest(group.x, group.size), bottom = least(group.x, group.size);
    const Floats<> inverse = 1.0f / guarded(top >= -bottom ? top : bottom);
    Floats<> scale = {}, lowest = {};
    for (int at = 0; at < spec.tries; at++) {
        const Sums sums = scale_sums(spec, group, spec.first[at] * inverse);
        const Floats<> tried = sums.cross / guarded(sums.energy);
        const Floats<> cost = -tried * sums.cross;
        const Ints<> better = at == 0 ? ~Ints<>{} : cost < lowest;
        lowest = better ? cost : lowest;
        scale = better ? tried : scale;
    }
    const Sums sums = scale_sums(spec, group, 1.0f / guarded(scale));
    return sums.cross / guarded(sums.energy);
}

Sums line_sums(const Spec& spec, const Group& g, Line line) {
    Floats<> codes[MOST_QUARTER], energies[MOST_QUARTER], crosses[MOST_QUARTER];
    const Floats<> inverse = 1.0f / guarded(line.scale), offset = line.offset;
    const Floats<> low = repeat(0.0f), high = repeat((float)spec.high);
    const int quarter = g.size / 4;
    for (int i = 0; i < quarter; i++) {
        Floats<> weighed[4], energy[4], cross[4];
        for (int part = 0; part < 4; part++) {
            const int at = i + part * quarter;
            const Floats<> code =
                clip(nearest((load(g.x + at * ROWS) - offset) * inverse), low, high);
            weighed[part] = g.weight[at] * code;
            energy[part] = weighed[part] * code;
            cross[part] = load(g.weighted + at * ROWS) * code;
        }
        codes[i] = (weighed[0] + weighed[2]) + (weighed[1] + weighed[3]);
        energies[i] = (energy[0] + energy[2]) + (energy[1] + energy[3]);
        crosses[i] = (cross[0] + cross[2]) + (cross[1] + cross[3]);
    }
    return {total(codes, quarter), total(energies, quarter), total(crosses, quarter)};
}

Floats<> loss(const Group& group, const Sums& sums, Line line) {
    const Floats<> both = 2.0f * (line.offset * sums.codes - sums.cross);
    const Floats<> of_scale = line.scale * (line.scale * sums.energy + both);
    return of_scale + line.offset * (line.offset * group.mass - 2.0f * group.first);
}

Line best_line(const Group& group, const Sums& sums, Line line, bool below) {
    const Floats<> both = group.mass * sums.energy;
    const Floats<> spread = both - sums.codes * sums.codes;
    const Ints<> flat = spread <= 1e-6f * both;
    const Floats<> divisor = spread + (flat ? repeat(1.0f) : repeat(0.0f));
    Floats<> slope = (group.mass * sums.cross - group.first * sums.codes) / divisor;
    Floats<> height = (group.first - slope * sums.codes) / group.mass;
    if (below) {
        const Ints<> above = height > 0.0f;
        slope = above ? sums.cross / guarded(sums.energy) : slope;
        height = above ? repeat(0.0f) : height;
    }
    return {flat ? line.scale : slope, flat ? line.offset : height};
}

Line search_line(const Spec& spec, const Group& group, bool below) {
    Floats<> bottom = least(group.x, group.size);
    if (below) bottom = at_most(bottom, repeat(0.0f));
    const Floats<> width = greatest(group.x, group.size) - bottom;
    Line best = {};
    Floats<> lowest = {};
    for (int at = 0; at < spec.tries; at++) {
        const Line start = {width * spec.first[at], bottom + spec.second[at] * width};
        const Sums sums = line_sums(spec, group, start);
        const Line tried = best_line(group, sums, start, below);
        const Floats<> cost = loss(group, sums, tried);
        const Ints<> better = at == 0 ? ~Ints<>{} : cost < lowest;
        lowest = better ? cost : lowest;
        best = {better ? tried.scale : best.scale, better ? tried.offset : best.offset};
    }
    return best;
}

}  // namespace KERNELS
