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

// How the queries of a layer see its keys.
struct Sight {
    int heads;    // of the queries
    float scale;  // factor on the scores
    int window;   // keys that a query sees, its own the last; 0 = all before it
};

// Tokens that the cache of a layer with a window (0 = none) keeps, where `capacity` are held and at
// most `step` are computed at once: those that the first of a step sees, and the step.
int tokens_kept(int window, int capacity, int step);

// out (rows, heads * head_dim) of q (rows, heads * head_dim). `partial` is room that is kept from
// call to call. The result does not depend on the number of threads.
void attend(const Kernels& kernels, const Cache& cache, int layer, const Step& step,
            const Sight& sight, const float* q, std::vector<float>& partial, float* out);
