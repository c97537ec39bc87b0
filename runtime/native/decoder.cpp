// The order of work is that of runtime/forward.py, with three liberties. Sums with the residual are
// taken together with the norm that reads them, while a row is in the first-level cache. Where only
// the last token's logits are wanted, the last layer computes keys and values for all tokens and
// the rest for that token alone: 3% of a prompt with 28 layers. Rows go through in pieces of at
// most MOST_ROWS, so that scratch is bounded: several short sequences together, or a long one piece
// by piece. Two idle cores of Sapphire Rapids, 1.5B in Q4_K_M, milliseconds:
//
//                      products   attention   silu   norms   all
//   one token                45         0.3    0.2     0.1    46
//   a prompt of 512         850          95     46      17  1010
#include "decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "matmul.h"
#include "pool.h"

namespace {

constexpr int MOST_ROWS = 256;              // enough for products to be bound by arithmetic
constexpr size_t SCRATCH_BYTES = 32 << 20;  // of the activations of one piece
constexpr int64_t LEAST_WORK = 1 << 15;     // values worth waking a thread for

// Room for at least `count` values; it only ever grows.
float* room(std::vector<float>& values, size_t count) {
    if (values.size() < count) values.resize(count);
    return values.data();
}

template <typename Work>
void for_rows(int rows, int64_t cost, const Work& work) {
    run_parallel(rows, least_items_of(cost, LEAST_WORK), [&](int start, int stop) {
        for (int row = start; row < stop; row++) work(row);
    });
}

}  // namespace

struct Decoder::Pass {
    Decoder& decoder;
    const Kernels& kernels;
    Cache& cache;
    Step step;  // narrowed to one token a sequence where only the last is wanted
    const int64_t* ids;
    int stride;  // ids from one sequence to the next
    float *x, *normed, *delta, *q, *k, *v, *context, *gate, *up, *cosines, *sines;

    Pass(Decoder& decoder, const Kernels& kernels, Cache& cache, const Step& step,
         const int64_t* ids, int stride);

    void product(const Linear& linear, const float* in, float* out) const {
        matmul(kernels, *kernels.layouts[linear.layout], linear.data, linear.rows, linear.cols, in,
               step.rows(), out);
    }

    void embed();
    void turn_tables();
    void add_and_norm(const float* bias, const float* weight);
    void only_norm(const float* weight);
    void keep_keys(int layer, const DecoderLayer& weights);
    void narrow_to_last();
    void rotate_heads(float* row, int heads, int token) const;
    void attention(int layer, const DecoderLayer& weights);
    void ffn(const DecoderLayer& weights);
};

Decoder::Pass::Pass(Decoder& decoder, const Kernels& kernels, Cache& cache, const Step& step,
                    const int64_t* ids, int stride)
    : decoder(decoder), kernels(kernels), cache(cache), step(step), ids(ids), stride(stride) {
    const DecoderSizes& s = decoder.sizes;
    Scratch& scratch = decoder.scratch;
    const size_t rows = (size_t)step.rows();
    x = room(scratch.x, rows * s.hidden);
    normed = room(scratch.normed, rows * s.hidden);
    delta = room(scratch.delta, rows * s.hidden);
    q = room(scratch.q, rows * s.heads * s.head_dim);
    k = room(scratch.k, rows * s.kv_heads * s.head_dim);
    v = room(scratch.v, rows * s.kv_heads * s.head_dim);
    context = room(scratch.context, rows * s.heads * s.head_dim);
    gate = room(scratch.gate, rows * s.ffn);
    up = room(scratch.up, rows * s.ffn);
    cosines = room(scratch.cosines, (size_t)step.tokens * s.head_dim / 2);
    sines = room(scratch.sines, (size_t)step.tokens * s.head_dim / 2);
}

void Decoder::Pass::embed() {
    const Linear& embedding = decoder.weights.embedding;
    const Layout& layout = *kernels.layouts[embedding.layout];
    const size_t row_bytes = (size_t)(embedding.cols / layout.block) * layout.bytes;
    for_rows(step.rows(), embedding.cols, [&](int row) {
        const int64_t id = ids[(size_t)(row / step.tokens) * stride + row % step.tokens];
        layout.decode_row(embedding.data + id * row_bytes, embedding.cols,
                          x + (size_t)row * embedding.cols);
    });
}

// Cosines and sines of the step's positions. The angle is a float32 product, as in
// runtime/rope.py: at position 30,000 its rounding shows.
void Decoder::Pass::turn_tables() {
    const int half = decoder.sizes.head_dim / 2;
    for_rows(step.tokens, 64 * half, [&](int token) {
        const float position = (float)(step.start + token);
        for (int pair = 0; pair < half; pair++) {
            const double angle = position * decoder.frequencies[pair];
            cosines[(size_t)token * half + pair] = (float)std::cos(angle) * decoder.magnitude;
            sines[(size_t)token * half + pair] = (float)std::sin(angle) * decoder.magnitude;
        }
    });
}

// x += delta + bias, normed = norm(x).
void Decoder::Pass::add_and_norm(const float* bias, const float* weight) {
    const int hidden = decoder.sizes.hidden;
    for_rows(step.rows(), 4 * hidden, [&](int row) {
        const size_t at = (size_t)row * hidden;
        kernels.ops.add(x + at, delta + at, hidden);
        if (bias != nullptr) kernels.ops.add(x + at, bias, hidden);
        kernels.ops.rmsnorm(x + at, weight, hidden, decoder.sizes.eps, normed + at);
    });
}

void Decoder::Pass::only_norm(const float* weight) {
    const int hidden = decoder.sizes.hidden;
    for_rows(step.rows(), 3 * hidden, [&](int row) {
        const size_t at = (size_t)row * hidden;
        kernels.ops.rmsnorm(x + at, weight, hidden, decoder.sizes.eps, normed + at);
    });
}

void Decoder::Pass::rotate_heads(float* row, int heads, int token) const {
    const int width = decoder.sizes.head_dim, half = width / 2;
    for (int head = 0; head < heads; head++) {
        kernels.ops.rotate(row + (size_t)head * width, cosines + (size_t)token * half,
                           sines + (size_t)token * half, half);
    }
}

void Decoder::Pass::keep_keys(int layer, const DecoderLayer& weights) {
    const int width = decoder.sizes.kv_heads * decoder.sizes.head_dim;
    product(weights.k, normed, k);
    product(weights.v, normed, v);
    for_rows(step.rows(), 8 * width, [&](int row) {
        float *key = k + (size_t)row * width, *value = v + (size_t)row * width;
        if (weights.k.bias != nullptr) kernels.ops.add(key, weights.k.bias, width);
        if (weights.v.bias != nullptr) kernels.ops.add(value, weights.v.bias, width);
        const int token = row % step.tokens;
        rotate_heads(key, decoder.sizes.kv_heads, token);
        cache.store(kernels.ops, layer, step.first + row / step.tokens, step.start + token, key,
                    value);
    });
}

// From here on only the last token of each sequence: its rows move to the front.
void Decoder::Pass::narrow_to_last() {
    const size_t hidden = decoder.sizes.hidden, half = decoder.sizes.head_dim / 2;
    const size_t last = step.tokens - 1;
    for (size_t sequence = 0; sequence < (size_t)step.sequences; sequence++) {
        const size_t row = sequence * step.tokens + last;
        memmove(x + sequence * hidden, x + row * hidden, hidden * sizeof(float));
        memmove(normed + sequence * hidden, normed + row * hidden, hidden * sizeof(float));
    }
    cosines += last * half;
    sines += last * half;
    step.start += (int)last;
    step.tokens = 1;
}

void Decoder::Pass::attention(int layer, const DecoderLayer& weights) {
    const int width = decoder.sizes.heads * decoder.sizes.head_dim;
    product(weights.q, normed, q);
    for_rows(step.rows(), 3 * width, [&](int row) {
        float* query = q + (size_t)row * width;
        if (weights.q.bias != nullptr) kernels.ops.add(query, weights.q.bias, width);
        rotate_heads(query, decoder.sizes.heads, row % step.tokens);
    });
    attend(kernels, cache, layer, step, decoder.sizes.heads, q, decoder.scratch.partial, context);
    product(weights.output, context, delta);
}

void Decoder::Pass::ffn(const DecoderLayer& weights) {
    const int width = decoder.sizes.ffn;
    product(weights.gate, normed, gate);
    product(weights.up, normed, up);
    for_rows(step.rows(), 8 * width, [&](int row) {
        float *gated = gate + (size_t)row * width, *upper = up + (size_t)row * width;
        if (weights.gate.bias != nullptr) kernels.ops.add(gated, weights.gate.bias, width);
        if (weights.up.bias != nullptr) kernels.ops.add(upper, weights.up.bias, width);
        kernels.ops.silu_mul(gated, upper, width);
    });
    product(weights.down, gate, delta);
}

Decoder::Decoder(const DecoderSizes& sizes, const DecoderWeights& weights,
                 const std::vector<float>& frequencies, float magnitude)
    : sizes(sizes), weights(weights), frequencies(frequencies), magnitude(magnitude) {}

int Decoder::rows_at_once() const {
    const size_t heads = 2 * (size_t)(sizes.heads + sizes.kv_heads) * sizes.head_dim;
    const size_t row = (3 * (size_t)sizes.hidden + heads + 2 * (size_t)sizes.ffn) * sizeof(float);
    return (int)std::clamp<size_t>(SCRATCH_BYTES / row, 1, MOST_ROWS);
}

void Decoder::run(const Kernels& kernels, const int64_t* ids, int stride, Cache& cache,
                  const Step& step, Wanted wanted, float* out) {
    Pass pass(*this, kernels, cache, step, ids, stride);
    pass.embed();
    pass.turn_tables();
    const float* bias = nullptr;  // of the linear that made `delta`
    for (int index = 0; index < sizes.layers; index++) {
        const DecoderLayer& layer = weights.layers[index];
        if (index == 0) {
            pass.only_norm(layer.attn_norm);
        } else {
            pass.add_and_norm(bias, layer.attn_norm);
        }
        pass.keep_keys(index, layer);
        if (index == sizes.layers - 1) {
            if (wanted == Wanted::NONE) return;
            if (wanted == Wanted::LAST) pass.narrow_to_last();
        }
        pass.attention(index, layer);
        pass.add_and_norm(layer.output.bias, layer.ffn_norm);
        pass.ffn(layer);
        bias = layer.down.bias;
    }
    pass.add_and_norm(bias, weights.output_norm);
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
        own.reset(new Cache(
            {sizes.layers, step_sequences, sizes.kv_heads, sizes.head_dim, tokens, halves}));
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
                out + row * sizes.vocab);
        }
    }
    if (cache != nullptr) cache->length += tokens;
}
