// A whole forward pass in one call: what runtime/forward.py defines, on packed weights.
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "attention.h"
#include "cache.h"
#include "kernels.h"

// A linear: packed rows where they lie, and its bias or nullptr.
struct Linear {
    int layout = 0;  // index in Kernels::layouts, the same for every instruction set
    const uint8_t* data = nullptr;
    int rows = 0, cols = 0;
    const float* bias = nullptr;
};

struct DecoderLayer {
    const float *attn_norm, *ffn_norm;
    Linear q, k, v, output, gate, up, down;
};

struct DecoderSizes {
    int vocab, hidden, ffn, layers, heads, kv_heads, head_dim;
    float eps;
};

// Every weight; the owner keeps the memory.
struct DecoderWeights {
    Linear embedding, head;
    const float* output_norm;
    std::vector<DecoderLayer> layers;
};

// Which tokens' logits are wanted of a step.
enum class Wanted { ALL, LAST, NONE };

class Decoder {
  public:
    // `frequencies` are the angles a position of the head_dim / 2 pairs of channels; cosines and
    // sines are multiplied by `magnitude`.
    Decoder(const DecoderSizes& sizes, const DecoderWeights& weights,
            const std::vector<float>& frequencies, float magnitude);

    // Logits of ids (batch, tokens), into out (batch, tokens or with `last` 1, vocab). The cache is
    // advanced by `tokens`; it has room for them. Without one the tokens are the whole context, and
    // their keys and values are kept, as float16 with `halves`, for the time of the call.
    void logits(const Kernels& kernels, const int64_t* ids, int batch, int tokens, Cache* cache,
                bool halves, bool last, float* out);

    // Rows that go through the layers at once; longer prompts and larger batches go in pieces.
    int rows_at_once() const;

    const DecoderSizes sizes;

  private:
    // Activations of the rows of a step.
    struct Scratch {
        std::vector<float> x, normed, delta, q, k, v, context, gate, up, cosines, sines, partial;
    };

    struct Pass;  // one step on its way through the layers

    void run(const Kernels& kernels, const int64_t* ids, int stride, Cache& cache, const Step& step,
             Wanted wanted, float* out);

    const DecoderWeights weights;
    const std::vector<float> frequencies;
    const float magnitude;
    std::mutex turn;  // of the scratch: one call at a time
    Scratch scratch;
};
