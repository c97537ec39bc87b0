// The 12 bytes of Q4_K and Q5_K that hold a 6-bit scale and a 6-bit min for each of 8 sub-blocks.
//
//   bytes 0..3   bits 0..5: scale i (i < 4),  bits 6..7: bits 4..5 of scale i + 4
//   bytes 4..7   bits 0..5: min i (i < 4),    bits 6..7: bits 4..5 of min i + 4
//   bytes 8..11  low nibble: bits 0..3 of scale i + 4, high nibble: bits 0..3 of min i + 4
#pragma once

#include <cstdint>

namespace KERNELS {

struct ScaleMin {
    float scale, min;
};

inline ScaleMin scale_min_of(const uint8_t* bytes, int sub) {
    if (sub < 4) return {(float)(bytes[sub] & 63), (float)(bytes[sub + 4] & 63)};
    const int i = sub - 4;
    const int scale = (bytes[8 + i] & 15) | (bytes[i] >> 6) << 4;
    const int min = (bytes[8 + i] >> 4) | (bytes[4 + i] >> 6) << 4;
    return {(float)scale, (float)min};
}

}  // namespace KERNELS
