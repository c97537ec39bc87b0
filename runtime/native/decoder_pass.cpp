// The ops of a layer, in the order in which decoder.cpp takes them.
#include "decoder_pass.h"

#include <cmath>
#include <cstring>

#include "pool.h"

namespace {

constexpr int64_t LEAST_WORK = 1 << 15;  // values worth waking a thread for

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

Decoder::Pass::Pass(Decoder& decoder, const Kernels& kernels, Cache& cache, const Step& step,
                    const int64_t* ids, int stride, Wanted wanted)
    : decoder(decoder),
      kernels(kernels),
      cache(cache),
      step(step),
      ids(ids),
      stride(stride),
      wanted(wanted) {
    const DecoderSizes& s = decoder.sizes;
    Scratch& scratch = decoder.scratch;
    const size_t rows = (size_t)step.rows();
    x = room(scratch.x, rows * s.hidden);
    normed = room(scratch.normed, rows * s.hidden);
    delta = room(scratch.delta, rows * s.hidden);
    q = room(scratch.q, rows * decoder.widest_query);
    k = room(scratch.k, rows * s.kv_heads * s.head_dim);
    v = room(scratch.v, rows * s.kv_heads * s.head_dim);
    context = room(scratch.context, rows * decoder.widest_query);
    gate = room(scratch.gate, rows * decoder.widest_ffn);
    up = room(scratch.up, rows * decoder.widest_ffn);
    y = x;
}

void Decoder::Pass::embed() {
    const Linear& embedding = decoder.weights.embedding;
    const Layout& layout = *kernels.layouts[embedding.layout];
    const size_t row_bytes = (size_t)(embedding.cols / layout.block) * layout.bytes;
    for_rows(step.rows(), embedding.cols, [&](int row) {
        const int64_t id = ids[(size_t)(row / step.tokens) * stride + row % step.tokens];
        float* out = x + (size_t)row * embedding.cols;
        layout.decode_row(embedding.data + id * row_bytes, embedding.cols, out);
        if (decoder.weights.embedding_scale == 1.0f) return;
        for (int col = 0; col < embedding.cols; col++) out[col] *= decoder.weights.embedding_scale;
    });
}

// Cosines and sines of the step's positions. The angle is a float32 product, as in
// runtime/rope.py: at position 30,000 its rounding shows.
void Decoder::Pass::turn_tables() {
    for (size_t index = 0; index < decoder.weights.ropes.size(); index++) {
        const Rope& rope = decoder.weights.ropes[index];
        const int half = (int)rope.frequencies.size();
        float* cosines = room(decoder.scratch.cosines[index], (size_t)step.tokens * half);
        float* sines = room(decoder.scratch.sines[index], (size_t)step.tokens * half);
        for_rows(step.tokens, 64 * half, [&](int token) {
            const float position = (float)(step.start + token);
            for (int pair = 0; pair < half; pair++) {
                const double angle = position * rope.frequencies[pair];
                cosines[(size_t)token * half + pair] = (float)std::cos(angle) * rope.magnitude;
                sines[(size_t)token * half + pair] = (float)std::sin(angle) * rope.magnitude;
            }
        });
    }
}

void Decoder::Pass::begin_layer(int index) {
    layer = index;
    y = x;
    bias = nullptr;
}

// The channels of an input as the columns of a linear are packed.
const float* Decoder::Pass::in_order(const Linear& linear, const float* in, int rows) const {
    const size_t width = (size_t)linear.cols;
    float* out = room(decoder.scratch.sorted, rows * width);
    for_rows(rows, 2 * linear.cols, [&](int row) {
        for (size_t at = 0; at < width; at++) {
            out[row * width + at] = in[row * width + linear.order[at]];
        }
    });
    return out;
}

// The row of x at `at` takes up what is pending.
void Decoder::Pass::take_up(size_t at) const {
    const Norm& norm = pending->post_norm;
    float *sum = x + at, *part = added + at;
    if (norm.weight == nullptr && pending->multiplier == 1.0f) {
        kernels.ops.add(sum, part, hidden());
        if (added_bias != nullptr) kernels.ops.add(sum, added_bias, hidden());
        return;
    }
    if (added_bias != nullptr) kernels.ops.add(part, added_bias, hidden());
    if (norm.weight != nullptr) {
        kernels.ops.rmsnorm(part, norm.weight, hidden(), norm.eps, part);
    }
    for (int channel = 0; channel < hidden(); channel++) part[channel] *= pending->multiplier;
    kernels.ops.add(sum, part, hidden());
}

// What no norm has taken along is added now: y is what the next op reads.
void Decoder::Pass::settle() {
    if (pending == nullptr && bias == nullptr) return;
    for_rows(step.rows(), 2 * hidden(), [&](int row) {
        const size_t at = (size_t)row * hidden();
        if (pending != nullptr) take_up(at);
        if (bias != nullptr) kernels.ops.add(y + at, bias, hidden());
    });
    pending = nullptr;
    bias = nullptr;
}

void Decoder::Pass::operator()(const Norm& norm) {
    for_rows(step.rows(), 4 * hidden(), [&](int row) {
        const size_t at = (size_t)row * hidden();
        if (pending != nullptr) take_up(at);
        if (bias != nullptr) kernels.ops.add(y + at, bias, hidden());
        kernels.ops.rmsnorm(y + at, norm.weight, hidden(), norm.eps, normed + at);
    });
    pending = nullptr;
    bias = nullptr;
    y = normed;
}

// Nothing is added yet: the norm that follows does it.
void Decoder::Pass::operator()(const Residual& residual) {
    if (y == x) {  // the stream itself, which must not change while it is added
        settle();
        memcpy(delta, x, (size_t)step.rows() * hidden() * sizeof(float));
        y = delta;
    }
    pending = &residual;
    added = y;
    added_bias = bias;
    y = x;
    bias = nullptr;
}

// Norm and rotation of a row of heads.
void Decoder::Pass::tell_positions(const Attention& attention, const Norm& norm, float* row,
                                   int heads, int token) const {
    const int width = decoder.sizes.head_dim;
    const bool turns = attention.rope >= 0;
    const float *cosines = nullptr, *sines = nullptr;
    int half = 0;
    if (turns) {
        half = (int)decoder.weights.ropes[attention.rope].frequencies.size();
        const size_t at = (size_t)(step.start - first_position + token) * half;
        cosines = decoder.scratch.cosines[attention.rope].data() + at;
        sines = decoder.scratch.sines[attention.rope].data() + at;
    }
    for (float* head = row; head < row + (size_t)heads * width; head += width) {
        if (norm.weight != nullptr) kernels.ops.rmsnorm(head, norm.weight, width, norm.eps, head);
        if (turns) kernels.ops.rotate(head, cosines, sines, half);
    }
}

void Decoder::Pass::keep_keys(const Attention& attention) {
    const int heads = decoder.sizes.kv_heads, width = heads * decoder.sizes.head_dim;
    product(attention.k, y, k);
    product(attention.v, y, v);
    for_rows(step.rows(), 8 * width, [&](int row) {
        float *key = k + (size_t)row * width, *value = v + (size_t)row * width;
        add_bias(attention.k, key);
        add_bias(attention.v, value);
        const int token = row % step.tokens;
        tell_positions(attention, attention.k_norm, key, heads, token);
        cache.store(kernels.ops, layer, step.first + row / step.tokens, step.start + token, key,
                    value);
    });
}

// From here on only the last token of each sequence: its rows move to the front.
void Decoder::Pass::narrow_to_last() {
    const size_t last = step.tokens - 1;
    for (size_t sequence = 0; sequence < (size_t)step.sequences; sequence++) {
        const size_t to = sequence * hidden(), from = (sequence * step.tokens + last) * hidden();
        memmove(x + to, x + from, hidden() * sizeof(float));
        if (y != x) memmove(y + to, y + from, hidden() * sizeof(float));
    }
    step.start += (int)last;
    step.tokens = 1;
}

void Decoder::Pass::operator()(const Attention& attention) {
    settle();
    keep_keys(attention);
    if (layer + 1 == (int)decoder.weights.layers.size()) {
        done = wanted == Wanted::NONE;
        if (done) return;
        if (wanted == Wanted::LAST) narrow_to_last();
    }
    const int heads = attention.sight.heads, width = heads * decoder.sizes.head_dim;
    product(attention.q, y, q);
    for_rows(step.rows(), 3 * width, [&](int row) {
        float* query = q + (size_t)row * width;
        add_bias(attention.q, query);
        tell_positions(attention, attention.q_norm, query, heads, row % step.tokens);
    });
    attend(kernels, cache, layer, step, attention.sight, q, decoder.scratch.partial, context);
    product(attention.output, context, delta);
    y = delta;
    bias = attention.output.bias;
}

// out (rows, hidden) without the bias of `down`.
void Decoder::Pass::gated(const GatedMLP& mlp, const float* in, int rows, float* out) const {
    const int width = mlp.gate.rows;
    const auto activate = mlp.gelu ? kernels.ops.gelu_mul : kernels.ops.silu_mul;
    product(mlp.gate, in, rows, gate);
    product(mlp.up, in, rows, up);
    for_rows(rows, 8 * width, [&](int row) {
        float *gated = gate + (size_t)row * width, *upper = up + (size_t)row * width;
        add_bias(mlp.gate, gated);
        add_bias(mlp.up, upper);
        activate(gated, upper, width);
    });
    product(mlp.down, gate, rows, out);
}

void Decoder::Pass::operator()(const GatedMLP& mlp) {
    settle();
    gated(mlp, y, step.rows(), delta);
    y = delta;
    bias = mlp.down.bias;
}
