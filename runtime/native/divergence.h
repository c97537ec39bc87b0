// How far the predictions of one model are from those of another.
#pragma once

#include <cstdint>

#include "kernels.h"

// What is kept of each place, as float64; see quantize/report/metrics.py.
enum Figure {
    KL,
    TOP_ORIGINAL,
    TOP_ARTIFACT,
    LOG_TOP_ORIGINAL,   // log probability of the original's top token
    LOG_TOP_ARTIFACT,   // the artifact's of the same token
    LOG_NEXT_ORIGINAL,  // of the text's next token, 0 where it is unknown (-1)
    LOG_NEXT_ARTIFACT,
    NON_FINITE,  // whether the artifact's logits are; then they count as equal
    FIGURES
};

// Logits (tokens, vocab) of both -> out (tokens, FIGURES).
void compare_tokens(const Kernels& kernels, const float* original, const float* artifact,
                    const int64_t* following, int tokens, int vocab, double* out);
