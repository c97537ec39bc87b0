// Activations become int8 codes with a scale for each 32 columns: scale = largest magnitude / 127,
// code = activation / scale, rounded to the nearest, halves to even.
//
// The steps are the same on every instruction set, and so are the codes.
#include "activations.h"

#include "numbers.h"

namespace KERNELS {

// The bits of the largest magnitude of 32. They order as the numbers do, NaN above infinity.
static inline int32_t largest_bits(const float* x) {
    int32_t largest = 0;
    for (int i = 0; i < 32; i++) {
        int32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

// 32 codes, and the sums of the first and the last sixteen.
static inline void write_codes(const float* x, float inverse, int8_t* codes, int sums[2]) {
    const float magic = 12582912.0f;  // 1.5 * 2^23: floats near it are the integers
    int32_t rounded[32];
    for (int i = 0; i < 32; i++) {
        const float shifted = x[i] * inverse + magic;
        memcpy(rounded + i, &shifted, sizeof shifted);
        rounded[i] -= 0x4b400000;  // the bits of `magic`
    }
    sums[0] = sums[1] = 0;
    for (int i = 0; i < 16; i++) sums[0] += rounded[i];
    for (int i = 16; i < 32; i++) sums[1] += rounded[i];
    for (int i = 0; i < 32; i++) codes[i] = (int8_t)rounded[i];
}

void quantize_activations(const float* x, int row, const Quantized& out) {
    const size_t start = (size_t)row * out.cols;
    for (int col = 0; col < out.cols; col += 32) {
        const size_t at = start + col;
        const int32_t bits = largest_bits(x + at);
        const float largest = float_of_bits((uint32_t)bits);
        // below 1e-30 the inverse could overflow: such activations count as zero
        const bool zero = largest < 1e-30f, special = bits >= 0x7f800000;
        if (zero || special) {
            memset(out.codes + at, 0, 32);
            // an infinity or NaN makes every product with it NaN
            const float scale = special ? float_of_bits(0x7fc00000) : 0.0f;
            out.scales[at / 32] = out.sums32[at / 32] = scale;
            out.sums16[at / 16] = out.sums16[at / 16 + 1] = scale;
            continue;
        }
        int sums[2];
        const float scale = largest / 127.0f;
        write_codes(x + at, 127.0f / largest, out.codes + at, sums);
        out.scales[at / 32] = scale;
        out.sums16[at / 16] = scale * (float)sums[0];
        out.sums16[at / 16 + 1] = scale * (float)sums[1];
        out.sums32[at / 32] = scale * (float)(sums[0] + sums[1]);
    }
}

}  // namespace KERNELS
