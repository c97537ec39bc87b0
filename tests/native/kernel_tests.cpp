// Every kernel of every instruction set that runs here, against float64 sums of decoded weights.
//
// Weights and activations lie in memory of exactly their size, which ends before a page that may
// not be touched: a read past a tensor ends the program, with or without a sanitizer. Prints a
// checksum of each layout's decoded weights, which is the same on every architecture.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "codebooks.h"
#include "cpu_features.h"
#include "guarded.h"
#include "matmul.h"
#include "pool.h"
#include "syrk.h"

namespace {

int failures = 0;

void fail(const Kernels& kernels, const Layout& layout, const char* what, int n) {
    printf("FAILED %s %s: %s (%d tokens)\n", kernels.name, layout.name, what, n);
    failures++;
}

enum Fill { TAME, LEAST, GREATEST, ANYTHING };

bool starts(const Layout& layout, const char* name) {
    return strncmp(layout.name, name, strlen(name)) == 0;
}

// An ordinary value, about 0.01, in place of each float16 or float32 scale of a block.
void set_scales(const Layout& layout, uint8_t* at) {
    const uint8_t half[2] = {0x00, 0x21};
    if (starts(layout, "INT") || starts(layout, "NVFP4_")) {
        const float scale = 0.01f;
        memcpy(at, &scale, sizeof scale);
    } else if (starts(layout, "MXFP4")) {
        at[0] = 121;
    } else if (starts(layout, "IQ1_M")) {  // in the upper nibbles of four words
        for (int i = 0; i < 4; i++) {
            at[49 + 2 * i] = (uint8_t)((at[49 + 2 * i] & 15) | (half[i / 2] >> (4 * (i % 2)) << 4));
        }
    } else if (starts(layout, "Q2_K") || starts(layout, "Q3_K") || starts(layout, "Q6_K") ||
               starts(layout, "TQ")) {
        memcpy(at + layout.bytes - 2, half, 2);
        if (starts(layout, "Q2_K")) memcpy(at + layout.bytes - 4, half, 2);
    } else if (layout.block > 1 && !starts(layout, "NVFP4")) {
        memcpy(at, half, 2);
        memcpy(at + 2, half, 2);  // a minimum, or codes
    }
}

// Codebooks, which Python would fill.
void fill_codebook(const Layout& layout) {
    Codebook* book = codebook_of(layout.name);
    if (book == nullptr) return;
    const int most = starts(layout, "IQ1") ? 8 : 43;
    for (size_t i = 0; i < book->bytes; i++) {
        book->points[i] = (int8_t)((int)(i * 37 % (2 * most + 1)) - most);
    }
}

// TAME: random bytes without the bits that would make a scale large; LEAST and GREATEST: every code
// and every whole scale at its end, the float16 and float32 ones at an ordinary value.
void fill(const Layout& layout, Fill how, uint8_t* data, size_t bytes) {
    std::mt19937 random(5);
    for (size_t i = 0; i < bytes; i++) {
        const uint8_t any = (uint8_t)random();
        data[i] = how == TAME ? any & 0x3b : how == LEAST ? 0 : how == GREATEST ? 0xff : any;
    }
    if (how == ANYTHING || how == TAME) return;
    for (size_t block = 0; block < bytes; block += layout.bytes) {
        set_scales(layout, data + block);
    }
}

void fill_activations(float* x, size_t count) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    for (size_t i = 0; i < count; i++) x[i] = normal(random);
    for (size_t i = 0; i < count; i += 61) x[i] *= 100;  // outliers
}

// Largest magnitude of out - x w over the norms of the rows that were multiplied.
double largest_error(const float* w, const float* x, const float* out, int rows, int cols, int n) {
    double largest = 0;
    for (int i = 0; i < n; i++) {
        for (int r = 0; r < rows; r++) {
            double sum = 0, w_norm = 0, x_norm = 0;
            for (int col = 0; col < cols; col++) {
                const double weight = w[(size_t)r * cols + col], value = x[(size_t)i * cols + col];
                sum += weight * value, w_norm += weight * weight, x_norm += value * value;
            }
            const double error = std::abs(out[(size_t)i * rows + r] - sum);
            if (!(error <= 1e30)) return INFINITY;
            if (w_norm > 0) largest = std::max(largest, error / std::sqrt(w_norm * x_norm));
        }
    }
    return largest;
}

void check_products(const Kernels& kernels, const Layout& layout, Fill how, int rows, int cols) {
    const size_t bytes = (size_t)rows * (cols / layout.block) * layout.bytes;
    Guarded data(bytes);
    fill(layout, how, data.data, bytes);
    std::vector<float> w((size_t)rows * cols);
    decode_rows(layout, data.data, rows, cols, w.data());
    for (const int n : {1, 2, 3, 7, 35}) {
        Guarded x((size_t)n * cols * sizeof(float)), out((size_t)n * rows * sizeof(float));
        fill_activations((float*)x.data, (size_t)n * cols);
        for (const bool exact : {false, true}) {
            set_exact(exact);
            matmul(kernels, layout, data.data, rows, cols, (float*)x.data, n, (float*)out.data);
            const double error =
                largest_error(w.data(), (float*)x.data, (float*)out.data, rows, cols, n);
            // int8 activations: half a step of 1/127 of the largest; bfloat16: less
            if (error > (exact ? 1e-5 : 0.02)) fail(kernels, layout, "is not the product", n);
        }
    }
}

// FNV-1a of the decoded weights, NaNs as one.
uint32_t checksum(const std::vector<float>& values) {
    uint32_t hash = 2166136261u;
    for (const float value : values) {
        uint32_t bits = 0x7fc00000;
        if (!std::isnan(value)) memcpy(&bits, &value, sizeof bits);
        for (int shift = 0; shift < 32; shift += 8) {
            hash = (hash ^ (bits >> shift & 255)) * 16777619;
        }
    }
    return hash;
}

uint32_t decode_anything(const Layout& layout) {
    const int rows = 7, cols = 1024;
    const size_t bytes = (size_t)rows * (cols / layout.block) * layout.bytes;
    Guarded data(bytes);
    fill(layout, ANYTHING, data.data, bytes);
    std::vector<float> w((size_t)rows * cols);
    decode_rows(layout, data.data, rows, cols, w.data());
    return checksum(w);
}

// Sums over an odd number of tokens, of columns that fill no panel.
void check_syrk(const Kernels& kernels, int tokens, int cols) {
    if (kernels.syrk_bf16 == nullptr) return;
    const size_t count = (size_t)tokens * cols, bytes = (size_t)cols * cols * sizeof(float);
    Guarded x(count * sizeof(float)), weighed(count * sizeof(float)), total(bytes);
    fill_activations((float*)x.data, count);
    for (size_t i = 0; i < count; i++) {
        ((float*)weighed.data)[i] = ((float*)x.data)[i] * (float)(i / cols + 1);
    }
    memset(total.data, 0, bytes);
    syrk(kernels, {(float*)weighed.data, cols}, {(float*)x.data, cols}, tokens, cols,
         (float*)total.data, cols);
    for (int row = 0; row < cols; row++) {
        for (int col = row; col < cols; col++) {
            double sum = 0, size = 0;
            for (int token = 0; token < tokens; token++) {
                const size_t at = (size_t)token * cols;
                const double part =
                    (double)((float*)weighed.data)[at + row] * (double)((float*)x.data)[at + col];
                sum += part, size += std::fabs(part);
            }
            const double found = ((float*)total.data)[(size_t)row * cols + col];
            if (std::fabs(found - sum) <= 0.008 * size) continue;  // two roundings of 2^-8
            printf("FAILED %s: sum over tokens (%d, %d)\n", kernels.name, row, col);
            failures++;
            return;
        }
    }
}

// Sums over the logits of two models, of which one may be broken.
void check_logits(const Kernels& kernels, int count, bool broken) {
    const size_t bytes = count * sizeof(float);
    Guarded p(bytes), q(bytes);
    fill_activations((float*)p.data, count);
    fill_activations((float*)q.data, count);
    ((float*)q.data)[count / 2] += broken ? INFINITY : 1.0f;
    LogitSums found;
    kernels.ops.compare_logits((float*)p.data, (float*)q.data, count, &found);
    double sums[3] = {};
    for (int i = 0; i < count; i++) {
        const double of_p = (double)((float*)p.data)[i] - found.peak_p.value;
        const double of_q = (double)((float*)q.data)[i] - found.peak_q.value;
        if (of_p > 0 || (of_q > 0 && !broken)) failures++;
        sums[0] += std::exp(of_p), sums[1] += std::exp(of_q);
        sums[2] += std::exp(of_p) * (of_p - of_q);
    }
    const bool peaks = found.peak_p.finite && found.peak_q.finite == !broken &&
                       ((float*)p.data)[found.peak_p.index] == found.peak_p.value;
    const bool right = std::fabs(found.sum_p / sums[0] - 1) < 1e-14 &&
                       std::fabs(found.sum_q / sums[1] - 1) < 1e-14 &&
                       std::fabs(found.difference - sums[2]) < 1e-12 * count;
    if (peaks && (broken || right)) return;
    printf("FAILED %s: sums of %d logits\n", kernels.name, count);
    failures++;
}

}  // namespace

int main() {
    set_pool_threads(2);
    const std::vector<const Kernels*> sets = available_kernels();
    for (int index = 0; index < sets[0]->layout_count; index++) {
        fill_codebook(*sets[0]->layouts[index]);
        const uint32_t expected = decode_anything(*sets[0]->layouts[index]);
        printf("%-12s %08x\n", sets[0]->layouts[index]->name, expected);
        for (const Kernels* kernels : sets) {
            const Layout& layout = *kernels->layouts[index];
            if (decode_anything(layout) != expected) fail(*kernels, layout, "decodes otherwise", 0);
            for (const Fill how : {TAME, LEAST, GREATEST}) {
                if (layout.block == 1 && how != TAME) continue;
                check_products(*kernels, layout, how, 1, 256);
                check_products(*kernels, layout, how, 37, 768);
            }
        }
    }
    for (const Kernels* kernels : sets) {
        check_syrk(*kernels, 5, 131);
        check_syrk(*kernels, 64, 48);
        for (const int count : {1, 3, 16, 37, 5000}) {
            check_logits(*kernels, count, false);
            check_logits(*kernels, count, true);
        }
    }
    for (const Kernels* kernels : sets) fprintf(stderr, "ran %s\n", kernels->name);
    printf(failures == 0 ? "all products are right\n" : "%d failures\n", failures);
    return failures != 0;
}
