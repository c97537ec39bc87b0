// What Q4_K and Q5_K begin with: d and dmin, and a 6-bit scale and a 6-bit min for each of 8
// sub-blocks.
//
//   bytes 0..1    d     float16
//   bytes 2..3    dmin  float16
//   bytes 4..7    bits 0..5: scale i (i < 4),  bits 6..7: bits 4..5 of scale i + 4
//   bytes 8..11   bits 0..5: min i (i < 4),    bits 6..7: bits 4..5 of min i + 4
//   bytes 12..15  low nibble: bits 0..3 of scale i + 4, high nibble: bits 0..3 of min i + 4
#pragma once

#include "../form.h"
#include "codes.h"

namespace KERNELS {

struct AffineSuper {
    static constexpr int BLOCK = 256, SUB = 32, CENTER = 0;
    static constexpr Form FORM = AFFINE;

    // Four of the 6-bit numbers in each word.
    struct Numbers {
        uint32_t scales[2], mins[2];
    };
    static INLINE Numbers numbers(const uint8_t* bytes) {
        uint32_t words[3];
        memcpy(words, bytes + 4, sizeof words);
        const uint32_t six = 0x3f3f3f3f, four = 0x0f0f0f0f, two = 0x30303030;
        return {{words[0] & six, (words[2] & four) | (words[0] >> 2 & two)},
                {words[1] & six, (words[2] >> 4 & four) | (words[1] >> 2 & two)}};
    }

    static INLINE void scales(const uint8_t* bytes, float* scale, float* offset) {
        const Numbers of = numbers(bytes);
        store(scale, repeat_half<8>(bytes) * floats_of_bytes((const uint8_t*)of.scales));
        store(offset, -(repeat_half<8>(bytes + 2) * floats_of_bytes((const uint8_t*)of.mins)));
    }

    static INLINE float factors(const uint8_t* bytes, int16_t* factor) {
        const Numbers of = numbers(bytes);
        for (int sub = 0; sub < 8; sub++) factor[sub] = ((const uint8_t*)of.scales)[sub];
        return load_half(bytes);
    }
};

}  // namespace KERNELS
