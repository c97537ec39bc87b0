// Causal attention of new tokens over a cache that already holds them.
#pragma once

#include <vector>

#include "cache.h"
#include "kernels.h"

// The new tokens of some sequences: each row of `sequences` x `tokens` is one of them.
struct Step {
    int first;  // sequence of the cache
    int sequences;
    int tokens;  // of each sequence
    int start;   // position of the first token

    int rows() const { return sequences * tokens; }
};

// out (rows, heads * head_dim) of q (rows, heads * head_dim). `partial` is room that is kept from
// call to call. The result does not depend on the number of threads.
void attend(const Kernels& kernels, const Cache& cache, int layer, const Step& step, int heads,
            const float* q, std::vector<float>& partial, float* out);
