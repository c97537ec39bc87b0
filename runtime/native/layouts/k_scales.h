// The 12 bytes of Q4_K and Q5_K that hold a 6-bit scale and a 6-bit min for each of 8 sub-blocks.
//
//   bytes 0..3   bits 0..5: scale i (i < 4),  bits 6..7: bits 4..5 of scale i + 4
//   bytes 4..7   bits 0..5: min i (i < 4),    bits 6..7: bits 4..5 of min i + 4
//   bytes 8..11  low nibble: bits 0..3 of scale i + 4, high nibble: bits 0..3 of min i + 4
#pragma once

#include "../wide.h"

namespace KERNELS {

// Four of them at a time, in one 32-bit number.
INLINE void load_k_scales(const uint8_t* bytes, float* scale, float* min) {
    uint32_t words[3];
    memcpy(words, bytes, sizeof words);
    const uint32_t six = 0x3f3f3f3f, four = 0x0f0f0f0f, two = 0x30303030;
    const uint32_t scales[2] = {words[0] & six, (words[2] & four) | (words[0] >> 2 & two)};
    const uint32_t mins[2] = {words[1] & six, (words[2] >> 4 & four) | (words[1] >> 2 & two)};
    store8(scale, floats_of_bytes((const uint8_t*)scales));
    store8(min, floats_of_bytes((const uint8_t*)mins));
}

}  // namespace KERNELS
