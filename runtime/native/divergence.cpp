#include "divergence.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "pool.h"

static void compare_token(const Kernels& kernels, const float* p, const float* q, int64_t next,
                          int vocab, double* out) {
    LogitSums of;
    kernels.ops.compare_logits(p, q, vocab, &of);
    out[NON_FINITE] = !of.peak_q.finite;
    std::vector<float> equal;
    if (!of.peak_q.finite) {
        equal.assign(vocab, 0.0f);
        q = equal.data();
        kernels.ops.compare_logits(p, q, vocab, &of);
    }
    const double log_p = of.peak_p.value + std::log(of.sum_p);
    const double log_q = of.peak_q.value + std::log(of.sum_q);
    out[KL] = of.difference / of.sum_p - (std::log(of.sum_p) - std::log(of.sum_q));
    out[TOP_ORIGINAL] = of.peak_p.index, out[TOP_ARTIFACT] = of.peak_q.index;
    out[LOG_TOP_ORIGINAL] = of.peak_p.value - log_p;
    out[LOG_TOP_ARTIFACT] = q[of.peak_p.index] - log_q;
    out[LOG_NEXT_ORIGINAL] = next < 0 ? 0.0 : p[next] - log_p;
    out[LOG_NEXT_ARTIFACT] = next < 0 ? 0.0 : q[next] - log_q;
}

void compare_tokens(const Kernels& kernels, const float* original, const float* artifact,
                    const int64_t* following, int tokens, int vocab, double* out) {
    run_parallel(tokens, 1, [&](int start, int stop) {
        for (int token = start; token < stop; token++) {
            const size_t at = (size_t)token * vocab;
            compare_token(kernels, original + at, artifact + at, following[token], vocab,
                          out + (size_t)token * FIGURES);
        }
    });
}
