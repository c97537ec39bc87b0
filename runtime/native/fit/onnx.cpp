// Scale and zero point of the ONNX layouts: runtime/quant_types/onnx_int.py.
#include "fitters.h"

namespace KERNELS {

constexpr int MOST_ONNX = 128;  // weights of the longest block

// Round with a scale and a zero point; the scale that is best for those codes, and its error.
struct Refit {
    Floats<> scale, error;
};

static Refit refit(const Spec& spec, const float* unit, const float* weight, Floats<> scale,
                   Floats<> zero) {
    Floats<> steps[MOST_ONNX], energies[MOST_ONNX], crosses[MOST_ONNX];
    for (int i = 0; i < spec.size; i++) {
        const Floats<> x = load(unit + i * ROWS);
        steps[i] = code_of(spec, x, {scale, zero}) - zero;
        const Floats<> weighted = weight[i] * steps[i];
        energies[i] = weighted * steps[i];
        crosses[i] = weighted * x;
    }
    const Floats<> energy = total(energies, spec.size), cross = total(crosses, spec.size);
    const Ints<> empty = energy == 0.0f;
    Floats<> fitted = cross / (empty ? repeat(1.0f) : energy);
    // least squares may cross 0 only when nothing but noise is left: keep the start there
    fitted = empty | (fitted == 0.0f) ? scale : fitted;
    for (int i = 0; i < spec.size; i++) {
        const Floats<> miss = load(unit + i * ROWS) - steps[i] * fitted;
        energies[i] = weight[i] * miss * miss;
    }
    return {fitted, total(energies, spec.size)};
}

void fit_onnx(const Spec& spec, float* x, const float* weight, float* params) {
    Floats<> top = repeat(0.0f);
    for (int i = 0; i < spec.size; i++) top = at_least(absolute(load(x + i * ROWS)), top);
    top = top == 0.0f ? repeat(1.0f) : top;
    for (int i = 0; i < spec.size; i++) store(x + i * ROWS, load(x + i * ROWS) / top);
    Floats<> high = greatest(x, spec.size), low = least(x, spec.size), start, zero;
    if (spec.form == SYMMETRIC) {
        start = high >= -low ? high : low;
        zero = repeat((float)spec.middle);
    } else {
        high = at_least(high, repeat(0.0f));
        low = at_most(low, repeat(0.0f));
        start = (high - low) / (float)spec.high;
        start = start == 0.0f ? repeat(1.0f) : start;
        const float first = spec.half ? 1.0f : 0.0f;
        zero = clip(nearest(-low / start), repeat(first), repeat((float)spec.high)) + 0.0f;
    }
    Refit best = {};
    for (int at = 0; at < spec.tries; at++) {
        const Refit tried = refit(spec, x, weight, start * spec.first[at], zero);
        const Ints<> better = at == 0 ? ~Ints<>{} : tried.error < best.error;
        best.scale = better ? tried.scale : best.scale;
        best.error = better ? tried.error : best.error;
    }
    const Floats<> scale = best.scale * top;
    const Floats<> tiny = absolute(scale) < 0x1p-100f ? repeat(0.0f) : scale;
    store(params, spec.half ? float16(scale) : tiny);
    if (spec.form == ZERO_POINT) store(params + ROWS, zero);
}

}  // namespace KERNELS
