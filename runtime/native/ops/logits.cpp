// Sums over the logits of two models, for their KL divergence.
//
// The exponential has a relative error of 2^-52 or so: of two nearly equal models the sums of a
// vocabulary cancel, and float32 would leave nothing of a small divergence.
#include "../kernels.h"
#include "../simd.h"
#include "ops.h"

namespace KERNELS {

constexpr int HALF = LANES / 2;
typedef Vec<double, HALF> Doubles;
typedef Vec<int64_t, HALF> Longs;

// e^x of numbers from minus infinity to 0; below -700 as of -700, which is next to nothing.
static INLINE Doubles exponential(Doubles x) {
    const Doubles least = Doubles{} - 700.0;
    const Doubles bounded = x < least ? least : x;
    const Doubles magic = Doubles{} + 6755399441055744.0;  // 1.5 * 2^52: rounds to a whole number
    const Doubles shifted = bounded * 1.4426950408889634 + magic;
    const Doubles whole = shifted - magic;
    const Doubles rest = (bounded - whole * 6.93147180369123816490e-01) -
                         whole * 1.90821492927058770002e-10;  // ln 2 in two parts
    Doubles sum = Doubles{} + 1.0 / 6227020800;  // Taylor's polynomial, within ln 2 / 2
    sum = sum * rest + 1.0 / 479001600;
    sum = sum * rest + 1.0 / 39916800;
    sum = sum * rest + 1.0 / 3628800;
    sum = sum * rest + 1.0 / 362880;
    sum = sum * rest + 1.0 / 40320;
    sum = sum * rest + 1.0 / 5040;
    sum = sum * rest + 1.0 / 720;
    sum = sum * rest + 1.0 / 120;
    sum = sum * rest + 1.0 / 24;
    sum = sum * rest + 1.0 / 6;
    sum = sum * rest + 0.5;
    sum = sum * rest + 1.0;
    sum = sum * rest + 1.0;
    return sum * (Doubles)(((Longs)shifted - (Longs)magic + 1023) << 52);
}

static INLINE double total_of(Doubles lanes) {
    double sum = 0;
    for (int lane = 0; lane < HALF; lane++) sum += lanes[lane];
    return sum;
}

static int first_largest(const float* x, int count, float largest) {
    for (int i = 0; i < count; i++) {
        if (x[i] == largest) return i;
    }
    return 0;
}

// The largest number, where it stands, and whether all are finite.
static Peak peak_of(const float* x, int count) {
    Floats<> largest = repeat(x[0]);
    Ints<> bits = {};
    int at = 0;
    for (; at + LANES <= count; at += LANES) {
        const Floats<> values = load(x + at);
        const Ints<> size = (Ints<>)values & 0x7fffffff;  // these order as the numbers do
        largest = values > largest ? values : largest;
        bits = size > bits ? size : bits;
    }
    Peak peak = {x[0], 0, true};
    for (int lane = 0; lane < LANES; lane++) {
        if (largest[lane] > peak.value) peak.value = largest[lane];
        if (bits[lane] >= 0x7f800000) peak.finite = false;
    }
    for (; at < count; at++) {
        if (x[at] > peak.value) peak.value = x[at];
        if (!(x[at] - x[at] == 0.0f)) peak.finite = false;
    }
    if (peak.finite) peak.index = first_largest(x, count, peak.value);
    return peak;
}

struct RunningSums {
    Doubles p, q, difference;
};

static INLINE void add_cells(const float* p, const float* q, double peak_p, double peak_q,
                             RunningSums& sums) {
    const Doubles wide_p = __builtin_convertvector(load<HALF>(p), Doubles) - peak_p;
    const Doubles wide_q = __builtin_convertvector(load<HALF>(q), Doubles) - peak_q;
    const Doubles share = exponential(wide_p);
    sums.p += share;
    sums.q += exponential(wide_q);
    sums.difference += share * (wide_p - wide_q);
}

void compare_logits(const float* p, const float* q, int count, LogitSums* out) {
    out->peak_p = peak_of(p, count), out->peak_q = peak_of(q, count);
    const double peak_p = out->peak_p.value, peak_q = out->peak_q.value;
    RunningSums sums = {};
    int at = 0;
    for (; at + HALF <= count; at += HALF) add_cells(p + at, q + at, peak_p, peak_q, sums);
    if (at < count) {  // what fills up the last register adds nothing
        float last_p[HALF], last_q[HALF];
        for (int lane = 0; lane < HALF; lane++) last_p[lane] = last_q[lane] = -1e30f;
        for (int lane = 0; at + lane < count; lane++) {
            last_p[lane] = p[at + lane], last_q[lane] = q[at + lane];
        }
        add_cells(last_p, last_q, peak_p, peak_q, sums);
    }
    out->sum_p = total_of(sums.p), out->sum_q = total_of(sums.q);
    out->difference = total_of(sums.difference);
}

}  // namespace KERNELS
