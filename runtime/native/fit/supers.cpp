// Small integer scales of sub-blocks on float16 scales: runtime/quant_types/super_fitting.py.
#include "fitters.h"

namespace KERNELS {

constexpr int MOST_GROUPS = 16;

struct SuperGroups {
    int count;
    Group at[MOST_GROUPS];
};

static SuperGroups split(const Spec& spec, const float* x, const float* weighted,
                         const float* weight) {
    SuperGroups groups;
    groups.count = spec.groups;
    for (int sub = 0; sub < groups.count; sub++) {
        const int start = sub * spec.group;
        groups.at[sub] =
            new_group(x + start * ROWS, weighted + start * ROWS, weight + start, spec.group);
    }
    return groups;
}

// The nearest integer of the range, never -0.0.
static INLINE Floats<> whole(Floats<> x, int least, int most) {
    return clip(nearest(x), repeat((float)least), repeat((float)most)) + 0.0f;
}

struct Lines {
    Floats<> d, dmin, scales[MOST_GROUPS], mins[MOST_GROUPS];
};

static INLINE Line stored_line(const Lines& state, int sub) {
    return {state.d * state.scales[sub], -(state.dmin * state.mins[sub])};
}

// The scale's lower or upper neighbour, and the best minimum beside it, whichever loses less.
static void choose_integers(const Spec& spec, const Group& group, const Sums& sums, Floats<> scale,
                            Lines& state, int sub) {
    const Floats<> ratio = scale / guarded(state.d);
    Floats<> lowest = {};
    for (int upper = 0; upper < 2; upper++) {
        const Floats<> tried = whole(upper ? ceiled(ratio) : floored(ratio), 0, spec.most);
        const Floats<> minimum = (state.d * tried * sums.codes - group.first) / group.mass;
        const Floats<> min = whole(minimum / guarded(state.dmin), 0, spec.most);
        const Floats<> cost = loss(group, sums, {state.d * tried, -(state.dmin * min)});
        const Ints<> better = upper == 0 ? ~Ints<>{} : cost < lowest;
        lowest = better ? cost : lowest;
        state.scales[sub] = better ? tried : state.scales[sub];
        state.mins[sub] = better ? min : state.mins[sub];
    }
}

static Floats<> stored_loss(const SuperGroups& groups, const Sums* sums, const Lines& state) {
    Floats<> losses[MOST_GROUPS];
    for (int sub = 0; sub < groups.count; sub++) {
        losses[sub] = loss(groups.at[sub], sums[sub], stored_line(state, sub));
    }
    return total(losses, groups.count);
}

static Lines better_lines(Ints<> better, const Lines& tried, const Lines& best, int groups) {
    Lines chosen;
    chosen.d = better ? tried.d : best.d;
    chosen.dmin = better ? tried.dmin : best.dmin;
    for (int sub = 0; sub < groups; sub++) {
        chosen.scales[sub] = better ? tried.scales[sub] : best.scales[sub];
        chosen.mins[sub] = better ? tried.mins[sub] : best.mins[sub];
    }
    return chosen;
}

// d, dmin and integers that lose least beside the sub-blocks' own lines.
static Lines start_lines(const Spec& spec, const SuperGroups& groups, const Sums* sums,
                         const Line* lines) {
    Floats<> top = lines[0].scale, deep = -lines[0].offset;
    for (int sub = 1; sub < groups.count; sub++) {
        top = at_least(lines[sub].scale, top);
        deep = at_least(-lines[sub].offset, deep);
    }
    Lines best = {};
    Floats<> lowest = {};
    for (int part = 0; part < spec.parts; part++) {
        Lines tried;
        tried.d = float16(top * spec.part[part]);
        tried.dmin = float16(deep * (float)(1.0 / spec.most));
        for (int sub = 0; sub < groups.count; sub++) {
            choose_integers(spec, groups.at[sub], sums[sub], lines[sub].scale, tried, sub);
        }
        const Floats<> cost = stored_loss(groups, sums, tried);
        const Ints<> better = part == 0 ? ~Ints<>{} : cost < lowest;
        lowest = better ? cost : lowest;
        best = better_lines(better, tried, best, groups.count);
    }
    return best;
}

// The best d and dmin for the integers and codes, then the best integers for those.
static Lines improve_lines(const Spec& spec, const SuperGroups& groups, const Sums* sums,
                           const Lines& state) {
    Floats<> slopes[MOST_GROUPS], heights[MOST_GROUPS], boths[MOST_GROUPS], rises[MOST_GROUPS],
        drops[MOST_GROUPS];
    for (int sub = 0; sub < groups.count; sub++) {
        const Floats<> scale = state.scales[sub], min = state.mins[sub];
        slopes[sub] = scale * scale * sums[sub].energy;
        heights[sub] = min * min * groups.at[sub].mass;
        boths[sub] = scale * min * sums[sub].codes;
        rises[sub] = scale * sums[sub].cross;
        drops[sub] = min * groups.at[sub].first;
    }
    const Floats<> slope = total(slopes, groups.count), height = total(heights, groups.count);
    const Floats<> both = total(boths, groups.count);
    const Floats<> rise = total(rises, groups.count), drop = total(drops, groups.count);
    const Floats<> spread = slope * height - both * both;
    const Ints<> flat = spread <= 1e-6f * slope * height;
    const Floats<> divisor = spread + (flat ? repeat(1.0f) : repeat(0.0f));
    Lines next;
    next.dmin = flat ? state.dmin : float16((both * rise - slope * drop) / divisor);
    next.d = float16((rise + both * next.dmin) / guarded(slope));  // the best beside dmin as stored
    for (int sub = 0; sub < groups.count; sub++) {
        const Line now = {next.d * state.scales[sub], -(next.dmin * state.mins[sub])};
        const Line best = best_line(groups.at[sub], sums[sub], now, true);
        choose_integers(spec, groups.at[sub], sums[sub], best.scale, next, sub);
    }
    return next;
}

void fit_affine_super(const Spec& spec, const float* x, const float* weighted, const float* weight,
                      float* params) {
    const SuperGroups groups = split(spec, x, weighted, weight);
    Sums sums[MOST_GROUPS];
    Line lines[MOST_GROUPS];
    for (int sub = 0; sub < groups.count; sub++) {
        const Line found = search_line(spec, groups.at[sub], true);
        sums[sub] = line_sums(spec, groups.at[sub], found);
        lines[sub] = best_line(groups.at[sub], sums[sub], found, true);
    }
    Lines state = start_lines(spec, groups, sums, lines), best = state;
    Floats<> lowest = {};
    for (int turn = 0; turn < spec.rounds; turn++) {
        for (int sub = 0; sub < groups.count; sub++) {
            sums[sub] = line_sums(spec, groups.at[sub], stored_line(state, sub));
        }
        const Floats<> cost = stored_loss(groups, sums, state);
        const Ints<> better = turn == 0 ? ~Ints<>{} : cost < lowest;
        lowest = better ? cost : lowest;
        best = better_lines(better, state, best, groups.count);
        if (turn + 1 < spec.rounds) state = improve_lines(spec, groups, sums, state);
    }
    store(params, best.d);
    store(params + ROWS, best.dmin);
    for (int sub = 0; sub < groups.count; sub++) {
        store(params + (2 + sub) * ROWS, best.scales[sub]);
        store(params + (2 + groups.count + sub) * ROWS, best.mins[sub]);
    }
}

struct Scales {
    Floats<> d, scales[MOST_GROUPS];
};

// d from the sub-block whose scale is greatest, and the integers nearest to the scales.
static Scales start_scales(const Spec& spec, const SuperGroups& groups) {
    Floats<> found[MOST_GROUPS];
    for (int sub = 0; sub < groups.count; sub++) found[sub] = search_scale(spec, groups.at[sub]);
    Floats<> top = found[0], bottom = found[0];
    for (int sub = 1; sub < groups.count; sub++) {
        top = at_least(found[sub], top);
        bottom = at_most(found[sub], bottom);
    }
    Scales state;
    state.d = float16((top >= -bottom ? top : bottom) * (float)(1.0 / spec.least));
    for (int sub = 0; sub < groups.count; sub++) {
        state.scales[sub] = whole(found[sub] / guarded(state.d), spec.least, spec.most);
    }
    return state;
}

// The best d for the integers and points, then the best integers for it.
static void improve_scales(const Spec& spec, const Sums* sums, Scales& state) {
    Floats<> pushes[MOST_GROUPS], pulls[MOST_GROUPS];
    for (int sub = 0; sub < spec.groups; sub++) {
        pushes[sub] = state.scales[sub] * state.scales[sub] * sums[sub].energy;
        pulls[sub] = state.scales[sub] * sums[sub].cross;
    }
    const Floats<> push = total(pushes, spec.groups), pull = total(pulls, spec.groups);
    state.d = push == 0.0f ? state.d : float16(pull / guarded(push));
    for (int sub = 0; sub < spec.groups; sub++) {
        const Floats<> scale = sums[sub].cross / guarded(sums[sub].energy) / guarded(state.d);
        state.scales[sub] = whole(scale, spec.least, spec.most);
    }
}

void fit_symmetric_super(const Spec& spec, const float* x, const float* weighted,
                         const float* weight, float* params) {
    const SuperGroups groups = split(spec, x, weighted, weight);
    Scales state = start_scales(spec, groups), best = state;
    Floats<> lowest = {};
    for (int turn = 0; turn < spec.rounds; turn++) {
        Sums sums[MOST_GROUPS];
        Floats<> costs[MOST_GROUPS];
        for (int sub = 0; sub < groups.count; sub++) {
            const Floats<> scale = state.d * state.scales[sub];
            sums[sub] = scale_sums(spec, groups.at[sub], 1.0f / guarded(scale));
            costs[sub] = scale * (scale * sums[sub].energy - 2.0f * sums[sub].cross);
        }
        const Floats<> cost = total(costs, groups.count);
        const Ints<> better = turn == 0 ? ~Ints<>{} : cost < lowest;
        lowest = better ? cost : lowest;
        best.d = better ? state.d : best.d;
        for (int sub = 0; sub < groups.count; sub++) {
            best.scales[sub] = better ? state.scales[sub] : best.scales[sub];
        }
        if (turn + 1 < spec.rounds) improve_scales(spec, sums, state);
    }
    store(params, best.d);
    for (int sub = 0; sub < groups.count; sub++) store(params + (1 + sub) * ROWS, best.scales[sub]);
}

}  // namespace KERNELS
