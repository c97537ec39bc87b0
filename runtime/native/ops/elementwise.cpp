// Norm, activation, residual and rotation of one row.
//
// Ladder: 1 baseline, 2 avx2, 3 avx512; the code is the same, LANES and the flags differ.
#include "exponential.h"
#include "ops.h"

namespace KERNELS {

void add(float* x, const float* y, int count) {
    for (int i = 0; i < count; i++) x[i] += y[i];
}

void rmsnorm(const float* x, const float* weight, int count, float eps, float* out) {
    Floats<> squares[4] = {};  // four sums side by side, because one would wait for each addition
    int at = 0;
    for (; at + 4 * LANES <= count; at += 4 * LANES) {
        for (int k = 0; k < 4; k++) {
            const Floats<> values = load(x + at + k * LANES);
            squares[k] += values * values;
        }
    }
    float square = total((squares[0] + squares[1]) + (squares[2] + squares[3]));
    for (; at < count; at++) square += x[at] * x[at];
    const float scale = 1.0f / __builtin_sqrtf(square / (float)count + eps);
    for (int i = 0; i < count; i++) out[i] = x[i] * scale * weight[i];
}

struct Silu {
    static INLINE Floats<> of(Floats<> x) { return x / (1.0f + exponential(-x)); }
};

// 0.5 (1 + tanh(y)) is the sigmoid of 2 y.
struct Gelu {
    static INLINE Floats<> of(Floats<> x) {
        const Floats<> twice = 1.59576912f * (x + 0.044715f * x * x * x);  // 2 sqrt(2 / pi)
        return x / (1.0f + exponential(-twice));
    }
};

template <typename Activation>
INLINE void activate(float* gate, const float* up, int count) {
    const int whole = count / LANES * LANES;
    for (int at = 0; at < whole; at += LANES) {
        store(gate + at, Activation::of(load(gate + at)) * load(up + at));
    }
    if (whole == count) return;
    float last_gate[LANES] = {}, last_up[LANES] = {};
    const size_t rest = (size_t)(count - whole) * sizeof(float);
    memcpy(last_gate, gate + whole, rest);
    memcpy(last_up, up + whole, rest);
    store(last_gate, Activation::of(load(last_gate)) * load(last_up));
    memcpy(gate + whole, last_gate, rest);
}

void silu_mul(float* gate, const float* up, int count) { activate<Silu>(gate, up, count); }

void gelu_mul(float* gate, const float* up, int count) { activate<Gelu>(gate, up, count); }

void rotate(float* head, const float* cosines, const float* sines, int half) {
    float *first = head, *second = head + half;
    for (int i = 0; i < half; i++) {
        const float x = first[i], y = second[i];
        first[i] = x * cosines[i] - y * sines[i];
        second[i] = y * cosines[i] + x * sines[i];
    }
}

}  // namespace KERNELS
