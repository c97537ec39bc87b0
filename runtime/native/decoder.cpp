// The ops of a layer are interpreted as runtime/forward.py does (decoder_pass.cpp), with three
// liberties. Sums with the residual are taken together with the norm that reads them, while a row
// is in the first-level cache. Where only the last token's logits are wanted, the last layer
// computes keys and values for all tokens and the rest for that token alone: 3% of a prompt with 28
// layers. Rows go through in pieces of at most MOST_ROWS, so that scratch is bounded: several short
// sequences together, or a long one piece by piece. Two idle cores of Sapphire Rapids, 1.5B in
// Q4_K_M, milliseconds:
//
//                      products   attention   silu   norms   all
//   one token                45         0.3    0.2     0.1    46
//   a prompt of 512         850          95     46      17  1010
#include "decoder.h"

#include <algorithm>

#include "decoder_pass.h"

namespace {

constexpr int MOST_ROWS = 256;              // enough for products to be bound by arithmetic
constexpr size_t SCRATCH_BYTES = 32 << 20;  // of the activations of one piece

}  // namespace

Decoder::Decoder(const DecoderSizes& sizes, const DecoderWeights& weights)
    : sizes(sizes), weights(weights) {
    for (const LayerOps& layer : weights.layers) {
        for (const Op& op : layer) {
            if (const auto* attention = std::get_if<Attention>(&op)) {
                widest_query = std::max(widest_query, attention->q.rows);
                windows.push_back(attention->sight.window);
            } else if (const auto* mlp = std::get_if<GatedMLP>(&op)) {
                widest_ffn = std::max(widest_ffn, mlp->gate.rows);
            } else if (const auto* moe = std::get_if<MoE>(&op)) {
                widest_ffn = std::max({widest_ffn, moe->experts.gate.rows, moe->shared.gate.rows});
            }
        }
    }
    scratch.cosines.resize(weights.ropes.size());
    scratch.sines.resize(weights.ropes.size());
}

int Decoder::rows_at_once() const {
    const size_t heads = 2 * ((size_t)widest_query + (size_t)sizes.kv_heads * sizes.head_dim);
    const size_t row = (3 * (size_t)sizes.hidden + heads + 2 * (size_t)widest_ffn) * sizeof(float);
    return (int)std::clamp<size_t>(SCRATCH_BYTES / row, 1, MOST_ROWS);
}

CacheSizes Decoder::cache_sizes(int batch, int capacity, bool halves) const {
    CacheSizes found = {batch, sizes.kv_heads, sizes.head_dim, capacity, halves, {}};
    for (int window : windows) {
        found.kept.push_back(tokens_kept(window, capacity, rows_at_once()));
    }
    return found;
}

void Decoder::run(const Kernels& kernels, const int64_t* ids, int stride, Cache& cache,
                  const Step& step, Wanted wanted, float* out) {
    Pass pass(*this, kernels, cache, step, ids, stride, wanted);
    pass.embed();
    pass.turn_tables();
    for (int index = 0; index < (int)weights.layers.size(); index++) {
        pass.begin_layer(index);
        for (const Op& op : weights.layers[index]) {
            std::visit(pass, op);
            if (pass.done) return;
        }
    }
    pass.begin_layer((int)weights.layers.size());
    pass(weights.output_norm);
    if (weights.head.data == nullptr) {
        const size_t count = (size_t)pass.step.rows() * sizes.hidden;
        std::copy(pass.normed, pass.normed + count, out);
        return;
    }
    pass.product(weights.head, pass.normed, out);
}

void Decoder::logits(const Kernels& kernels, const int64_t* ids, int batch, int tokens,
                     Cache* cache, bool halves, bool last, float* out) {
    std::lock_guard<std::mutex> lock(turn);
    const int most = rows_at_once();
    const int step_tokens = std::min(tokens, most);
    const int step_sequences = std::min(batch, std::max(1, most / step_tokens));
    std::unique_ptr<Cache> own;
    if (cache == nullptr) {
        own.reset(new Cache(cache_sizes(step_sequences, tokens, halves)));
    }
    for (int first = 0; first < batch; first += step_sequences) {
        const int sequences = std::min(step_sequences, batch - first);
        for (int at = 0; at < tokens; at += step_tokens) {
            const int count = std::min(step_tokens, tokens - at);
            const bool ends = at + count == tokens;
            const Step step = {own ? 0 : first, sequences, count, (own ? 0 : cache->length) + at};
            // a piece of a sequence is a sequence alone: the rows of `out` lie one after the other
            const size_t row = last ? first : (size_t)first * tokens + at;
            run(kernels, ids + (size_t)first * tokens + at, tokens, own ? *own : *cache, step,
                !last  ? Wanted::ALL
                : ends ? Wanted::LAST
                       : Wanted::NONE,
                out + row * sizes.outputs);
        }
    }
    if (cache != nullptr) cache->length += tokens;
}
