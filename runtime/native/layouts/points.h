// Codes of 32 weights out of the points of a codebook, and their signs.
#pragma once

#include "../codebooks.h"
#include "codes.h"

namespace KERNELS {

// The points of `index`, one after the other.
template <int WIDTH>
INLINE Bytes<32> points_at(const int8_t (*points)[WIDTH], const int* index) {
    uint8_t codes[32];
    for (int i = 0; i < 32 / WIDTH; i++) memcpy(codes + WIDTH * i, points[index[i]], WIDTH);
    return load<32>(codes);
}

// Codes with a minus where a bit is set, the lowest bit of the first byte first.
INLINE Bytes<32> with_signs(Bytes<32> codes, const uint8_t* bits) {
    const Bytes<32> minus = spread_bits(bits);
    return (codes ^ minus) - minus;
}

// Signs of eight weights out of 7 bits: the eighth makes their number even.
INLINE uint8_t signs_of_7(unsigned bits) {
    return (uint8_t)((bits & 127) | (unsigned)__builtin_parity(bits & 127) << 7);
}

// Signs of 32 weights: of each eight 7 bits, the lowest first.
INLINE Bytes<32> with_signs_of_7(Bytes<32> codes, unsigned bits) {
    uint8_t signs[4];
    for (int i = 0; i < 4; i++) signs[i] = signs_of_7(bits >> (7 * i));
    return with_signs(codes, signs);
}

INLINE uint32_t load_u32(const uint8_t* bytes) {
    uint32_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

}  // namespace KERNELS
