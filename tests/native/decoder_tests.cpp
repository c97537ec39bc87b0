// What lies between the products, on every instruction set that runs here: attention and the row
// operations against float64, and a small decoder whose steps must equal the whole.
//
// What is read and written lies in memory of exactly its size, before a page that may not be
// touched.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "attention.h"
#include "cpu_features.h"
#include "decoder.h"
#include "guarded.h"
#include "matmul.h"
#include "pool.h"

namespace {

int failures = 0;

void expect(bool right, const Kernels& kernels, const char* what, int size) {
    if (right) return;
    printf("FAILED %s: %s (%d)\n", kernels.name, what, size);
    failures++;
}

// Random numbers in guarded memory.
struct Numbers : Guarded {
    explicit Numbers(size_t count, float scale = 1.0f) : Guarded(count * sizeof(float)) {
        static std::mt19937 random(3);
        std::normal_distribution<float> normal(0.0f, scale);
        for (size_t i = 0; i < count; i++) values()[i] = normal(random);
    }
    float* values() { return (float*)data; }
};

void check_rows(const Kernels& kernels, int count) {
    Numbers x(count), weight(count), out(count), up(count);
    double squares = 0;
    for (int i = 0; i < count; i++) squares += (double)x.values()[i] * x.values()[i];
    kernels.ops.rmsnorm(x.values(), weight.values(), count, 1e-6f, out.values());
    const double scale = 1 / std::sqrt(squares / count + 1e-6);
    for (int i = 0; i < count; i++) {
        const double wanted = x.values()[i] * scale * weight.values()[i];
        expect(std::abs(out.values()[i] - wanted) < 1e-5, kernels, "rmsnorm", count);
    }
    Numbers gate(count, 20.0f), kept(count);
    memcpy(kept.data, gate.data, count * sizeof(float));
    kernels.ops.silu_mul(gate.values(), up.values(), count);
    for (int i = 0; i < count; i++) {
        const double before = kept.values()[i];
        const double wanted = before / (1 + std::exp(-before)) * up.values()[i];
        expect(std::abs(gate.values()[i] - wanted) < 1e-5 * (1 + std::abs(wanted)), kernels,
               "silu_mul", count);
    }
    memcpy(gate.data, kept.data, count * sizeof(float));
    kernels.ops.gelu_mul(gate.values(), up.values(), count);
    for (int i = 0; i < count; i++) {
        const double x = kept.values()[i];
        const double half = std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x);
        const double wanted = x / (1 + std::exp(-2 * half)) * up.values()[i];
        expect(std::abs(gate.values()[i] - wanted) < 1e-5 * (1 + std::abs(wanted)), kernels,
               "gelu_mul", count);
    }
}

// Every float16, there and back; and float32 that lie between two of them.
void check_halves(const Kernels& kernels) {
    std::vector<uint16_t> all(1 << 16), back(1 << 16);
    std::vector<float> wide(1 << 16);
    for (int i = 0; i < 1 << 16; i++) all[i] = (uint16_t)i;
    kernels.ops.to_f32(all.data(), 1 << 16, wide.data());
    kernels.ops.to_f16(wide.data(), 1 << 16, back.data());
    for (int i = 0; i < 1 << 16; i++) {
        expect(std::isnan(wide[i]) || back[i] == all[i], kernels, "float16 there and back", i);
    }
    // just below, at and just above the middle of two neighbours, the last seven without a register
    const float between[] = {1.00048816f,  1.00048828f,   1.0004884f, 1.00146484f,   65519.996f,
                             65520.0f,     5.9e-8f,       2.98e-8f,   2.9802322e-8f, 1e-9f,
                             -1.00048828f, 8.9406967e-8f, 1e30f,      6.1e-5f,       6.1035156e-5f};
    const uint16_t wanted[] = {0x3c00, 0x3c00, 0x3c01, 0x3c02, 0x7bff, 0x7c00, 0x0001, 0x0000,
                               0x0000, 0x0000, 0xbc00, 0x0002, 0x7c00, 0x03ff, 0x0400};
    uint16_t found[15];
    kernels.ops.to_f16(between, 15, found);
    for (int i = 0; i < 15; i++) {
        expect(found[i] == wanted[i], kernels, "float16 to the nearest", i);
        kernels.ops.to_f16(between + i, 1, found + i);
        expect(found[i] == wanted[i], kernels, "one float16 to the nearest", i);
    }
}

struct Shape {
    int heads, kv_heads, head_dim, start, tokens;
    int window = 0;
};

// One query's attention in float64.
std::vector<double> slow_attention(const Shape& s, const float* q, const float* keys,
                                   const float* values, int kv_head, int seen) {
    std::vector<double> weights(seen), out(s.head_dim);
    const size_t stride = (size_t)s.kv_heads * s.head_dim;
    const int first = s.window == 0 ? 0 : std::max(0, seen - s.window);
    double largest = -INFINITY, sum = 0;
    for (int key = first; key < seen; key++) {
        double score = 0;
        for (int c = 0; c < s.head_dim; c++) {
            score += (double)q[c] * keys[key * stride + (size_t)kv_head * s.head_dim + c];
        }
        weights[key] = score / std::sqrt((double)s.head_dim);
        largest = std::max(largest, weights[key]);
    }
    for (int key = first; key < seen; key++) {
        sum += weights[key] = std::exp(weights[key] - largest);
    }
    for (int key = first; key < seen; key++) {
        for (int c = 0; c < s.head_dim; c++) {
            const float value = values[key * stride + (size_t)kv_head * s.head_dim + c];
            out[c] += weights[key] / sum * value;
        }
    }
    return out;
}

void check_attention(const Kernels& kernels, const Shape& s, bool halves) {
    const int total = s.start + s.tokens, sequences = 2;
    const size_t kv = (size_t)s.kv_heads * s.head_dim, row = (size_t)s.heads * s.head_dim;
    Numbers keys(sequences * total * kv), values(sequences * total * kv);
    Numbers q(sequences * s.tokens * row, 2.0f), out(sequences * s.tokens * row);
    const int kept = tokens_kept(s.window, total, s.tokens);
    Cache cache({sequences, s.kv_heads, s.head_dim, total, halves, {kept}});
    for (int sequence = 0; sequence < sequences; sequence++) {
        for (int at = 0; at < total; at++) {
            const size_t from = ((size_t)sequence * total + at) * kv;
            cache.store(kernels.ops, 0, sequence, at, keys.values() + from, values.values() + from);
        }
    }
    std::vector<float> partial;
    const Step step = {0, sequences, s.tokens, s.start};
    const Sight sight = {s.heads, 1.0f / std::sqrt((float)s.head_dim), s.window};
    attend(kernels, cache, 0, step, sight, q.values(), partial, out.values());
    for (int index = 0; index < sequences * s.tokens * s.heads; index++) {
        const int token = index / s.heads % s.tokens, sequence = index / s.heads / s.tokens;
        const size_t first = (size_t)sequence * total * kv;
        const std::vector<double> wanted = slow_attention(
            s, q.values() + (size_t)index * s.head_dim, keys.values() + first,
            values.values() + first, index % s.heads / (s.heads / s.kv_heads), s.start + token + 1);
        for (int c = 0; c < s.head_dim; c++) {
            const double error = std::abs(out.values()[(size_t)index * s.head_dim + c] - wanted[c]);
            expect(error < (halves ? 2e-2 : 2e-5), kernels, "attention", s.head_dim);
        }
    }
}

// A decoder of one layer with float32 weights, on `threads` threads.
void check_decoder(const Kernels& kernels) {
    const DecoderSizes sizes = {97, 40, 97, 2, 10};
    std::vector<std::unique_ptr<Numbers>> kept;
    const auto numbers = [&](int count) {
        kept.push_back(std::make_unique<Numbers>(count, 0.2f));
        return kept.back()->values();
    };
    const auto linear = [&](int rows, int cols) {
        Linear out;  // layout 0 is F32
        out.data = (const uint8_t*)numbers(rows * cols);
        out.rows = rows;
        out.cols = cols;
        out.bias = numbers(rows);
        return out;
    };
    const auto norm = [&](int width) { return Norm{numbers(width), 1e-6f}; };
    const Attention attention = {linear(60, 40), linear(20, 40), linear(20, 40), linear(40, 60),
                                 norm(10),       norm(10),       {6, 0.3f, 5},   0};
    const GatedMLP mlp = {linear(56, 40), linear(56, 40), linear(40, 56), true};
    const LayerOps layer = {norm(40), attention, Residual{},
                            norm(40), mlp,       Residual{0.5f, norm(40)}};
    Decoder decoder(
        sizes,
        {linear(97, 40), linear(97, 40), norm(40), {layer}, {{{1.0f, 0.5f, 0.25f, 0.1f}, 1.0f}}});
    const int batch = 2, tokens = 9;
    std::vector<int64_t> ids(batch * tokens);
    for (size_t i = 0; i < ids.size(); i++) ids[i] = (int64_t)(i * 31 % 97);
    Numbers whole(batch * tokens * 97), last(batch * 97);
    decoder.logits(kernels, ids.data(), batch, tokens, nullptr, true, false, whole.values());
    decoder.logits(kernels, ids.data(), batch, tokens, nullptr, true, true, last.values());
    Cache cache(decoder.cache_sizes(batch, tokens, true));
    for (int token = 0; token < tokens; token++) {
        const int64_t now[batch] = {ids[token], ids[tokens + token]};
        Numbers out(batch * 97);
        decoder.logits(kernels, now, batch, 1, &cache, true, true, out.values());
        for (int row = 0; row < batch; row++) {
            const float* expected = whole.values() + (row * tokens + token) * 97;
            const size_t bytes = 97 * sizeof(float);
            expect(memcmp(out.values() + row * 97, expected, bytes) == 0, kernels, "step", token);
            if (token + 1 < tokens) continue;
            expect(memcmp(last.values() + row * 97, expected, bytes) == 0, kernels, "last", row);
        }
    }
}

}  // namespace

int main() {
    set_pool_threads(2);
    set_exact(true);
    const Shape shapes[] = {
        {1, 1, 2, 0, 1},           {7, 1, 34, 5, 3},         {6, 2, 64, 0, 70},
        {3, 3, 16, 1200, 1},       {14, 2, 64, 700, 5},      {8, 1, 128, 130, 40},
        {6, 2, 64, 9, 70, 5},      {3, 3, 16, 1200, 1, 700}, {4, 1, 32, 1000, 3, 300},
        {8, 1, 128, 130, 40, 129}, {6, 2, 16, 900, 200, 57}, {6, 2, 64, 777, 1, 1}};
    for (const Kernels* kernels : available_kernels()) {
        for (int count : {1, 15, 64, 101}) check_rows(*kernels, count);
        check_halves(*kernels);
        for (const Shape& shape : shapes) {
            for (bool halves : {false, true}) check_attention(*kernels, shape, halves);
        }
        check_decoder(*kernels);
        fprintf(stderr, "ran %s\n", kernels->name);
    }
    printf(failures == 0 ? "the decoder is right\n" : "%d failures\n", failures);
    return failures != 0;
}
