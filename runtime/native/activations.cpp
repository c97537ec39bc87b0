// Activations become int8 codes with a scale for each 32 columns: scale = largest magnitude / 127,
// code = activation / scale, rounded to the nearest, halves to even.
//
// The steps are the same on every instruction set, and so are the codes.
#include "activations.h"

#include "float16.h"

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

// 32 activations of one token.
struct Part {
    float scale;
    int sums[2];  // of the first and the last sixteen codes
    int8_t codes[32];
};

static inline void round_codes(const float* x, float inverse, Part& part) {
    const float magic = 12582912.0f;  // 1.5 * 2^23: floats near it are the integers
    int32_t rounded[32];
    for (int i = 0; i < 32; i++) {
        const float shifted = x[i] * inverse + magic;
        memcpy(rounded + i, &shifted, sizeof shifted);
        rounded[i] -= 0x4b400000;  // the bits of `magic`
    }
    for (int i = 0; i < 16; i++) part.sums[0] += rounded[i];
    for (int i = 16; i < 32; i++) part.sums[1] += rounded[i];
    for (int i = 0; i < 32; i++) part.codes[i] = (int8_t)rounded[i];
}

static inline Part part_of(const float* x) {
    Part part = {};
    const int32_t bits = largest_bits(x);
    const float largest = float_of_bits((uint32_t)bits);
    if (bits >= 0x7f800000) {  // an infinity or NaN makes every product with it NaN
        part.scale = float_of_bits(0x7fc00000);
    } else if (largest >= 1e-30f) {  // below, the inverse could overflow: they count as zero
        part.scale = largest / 127.0f;
        round_codes(x, 127.0f / largest, part);
    }
    return part;
}

// A token's numbers lie as far apart as its group is wide.
void quantize_activations(const float* x, int row, const Quantized& out) {
    const int step = out.group, inside = row % step;
    const size_t before = (size_t)(row - inside) * out.cols;  // of the groups before
    int8_t* codes = out.codes + before + 4 * inside;
    float* scales = out.scales + before / 32 + inside;
    size_t sub = before / out.width + inside;
    x += (size_t)row * out.cols;
    for (int col = 0; col < out.cols; col += 32, scales += step) {
        const Part part = part_of(x + col);
        for (int four = 0; four < 32; four += 4, codes += 4 * step) {
            memcpy(codes, part.codes + four, 4);
        }
        *scales = part.scale;
        for (int first = 0; first < 32; first += out.width, sub += step) {
            const int sum = out.width == 32 ? part.sums[0] + part.sums[1] : part.sums[first / 16];
            out.sums[sub] = part.scale * (float)sum;
            out.starts[sub] = -out.center * sum;
        }
    }
}

}  // namespace KERNELS
