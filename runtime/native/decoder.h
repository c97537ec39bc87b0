// A whole forward pass in one call: what runtime/forward.py defines, on packed weights.
#pragma once

#include <cstdint>
#include <mutex>
#include <variant>
#include <vector>

#include "attention.h"
#include "cache.h"
#include "kernels.h"

// The records below are those of runtime/archs/layer.py.

// A linear: packed rows where they lie, and its bias or nullptr.
struct Linear {
    int layout = 0;  // index in Kernels::layouts, the same for every instruction set
    const uint8_t* data = nullptr;
    int rows = 0, cols = 0;
    const float* bias = nullptr;
    const int32_t* order = nullptr;  // which column each packed one is; nullptr: as they come
};

struct Norm {
    const float* weight = nullptr;  // nullptr: there is no norm
    float eps = 0.0f;
};

struct Attention {
    Linear q, k, v, output;
    Norm q_norm, k_norm;  // of each head, before rope
    Sight sight;
    int rope;  // index in DecoderWeights::ropes, or -1: positions are not told
};

struct GatedMLP {
    Linear gate, up, down;
    bool gelu;  // else silu
};

// Linears of `experts` hold the first expert; the others follow it, each as large.
struct MoE {
    Linear router;
    GatedMLP experts;
    int top_k;
    bool normalized;     // whether the shares of the chosen experts are made to sum to 1
    GatedMLP shared;     // for every token; gate.data is nullptr: there is none
    Linear shared_gate;  // data is nullptr: the shared expert counts in full
};

struct Residual {
    float multiplier = 1.0f;
    Norm post_norm;
};

using Op = std::variant<Norm, Attention, GatedMLP, MoE, Residual>;
using LayerOps = std::vector<Op>;  // with one Attention

// Angles a position of pairs of channels; cosines and sines are multiplied by `magnitude`.
struct Rope {
    std::vector<float> frequencies;
    float magnitude;

    bool operator==(const Rope& other) const {
        return magnitude == other.magnitude && frequencies == other.frequencies;
    }
};

struct DecoderSizes {
    int vocab, hidden;
    int outputs;             // of a token: vocab, or hidden where there is no head
    int kv_heads, head_dim;  // of every layer
};

// Every weight; the owner keeps the memory.
struct DecoderWeights {
    Linear embedding;
    Linear head;  // data is nullptr: the normed states are what is wanted
    Norm output_norm;
    std::vector<LayerOps> layers;
    std::vector<Rope> ropes;       // of all layers, each once
    float embedding_scale = 1.0f;  // of the embedding's rows, before the first layer
};

// Which tokens' logits are wanted of a step.
enum class Wanted { ALL, LAST, NONE };

class Decoder {
  public:
    Decoder(const DecoderSizes& sizes, const DecoderWeights& weights);

    // Logits of ids (batch, tokens), into out (batch, tokens or with `last` 1, outputs). The cache
    // is advanced by `tokens`; it has room for them. Without one the tokens are the whole context,
    // and their keys and values are kept, as float16 with `halves`, for the time of the call.
    void logits(const Kernels& kernels, const int64_t* ids, int batch, int tokens, Cache* cache,
                bool halves, bool last, float* out);

    // Rows that go through the layers at once; longer prompts and larger batches go in pieces.
    int rows_at_once() const;

    // Of a cache for this decoder.
    CacheSizes cache_sizes(int batch, int capacity, bool halves) const;

    const DecoderSizes sizes;

  private:
    // Activations of the rows of a step.
    struct Scratch {
        std::vector<float> x, normed, delta, q, k, v, context, gate, up, partial;
        std::vector<float> sorted;                             // an input in a linear's order
        std::vector<float> scores, shares, gathered, outputs;  // of experts
        std::vector<int> chosen, routed;
        std::vector<std::vector<float>> cosines, sines;  // of each rope
    };

    struct Pass;  // one step on its way through the layers

    void run(const Kernels& kernels, const int64_t* ids, int stride, Cache& cache, const Step& step,
             Wanted wanted, float* out);

    const DecoderWeights weights;
    int widest_query = 0, widest_ffn = 0;  // heads * head_dim and channels, of any layer
    std::vector<int> windows;              // of each layer
    std::mutex turn;                       // of the scratch: one call at a time
    Scratch scratch;
};
