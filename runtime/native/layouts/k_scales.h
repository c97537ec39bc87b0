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

    // Four of the 6-bit numbers at a time, in one of 32 bits.
    static INLINE void scales(const uint8_t* bytes, float* scale, float* offset) {
        uint32_t words[3];
        memcpy(words, bytes + 4, sizeof words);
        const uint32_t six = 0x3f3f3f3f, four = 0x0f0f0f0f, two = 0x30303030;
        const uint32_t scales[2] = {words[0] & six, (words[2] & four) | (words[0] >> 2 & two)};
        const uint32_t mins[2] = {words[1] & six, (words[2] >> 4 & four) | (words[1] >> 2 & two)};
        store(scale, repeat_half<8>(bytes) * floats_of_bytes((const uint8_t*)scales));
        store(offset, -(repeat_half<8>(bytes + 2) * floats_of_bytes((const uint8_t*)mins)));
    }
};

}  // namespace KERNELS
