// Codes of 2 bits, four a byte.
#pragma once

#include "codes.h"

namespace KERNELS {

// The codes of 8 bytes, the lowest of each byte first.
INLINE Bytes<32> four_a_byte(const uint8_t* bytes) {
#if defined(__AVX2__)
    // each byte in a word of its own; byte i of the word gets its bits from 2i on
    const __m256i words = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)bytes));
    const __m256i twice = _mm256_or_si256(words, _mm256_slli_epi32(words, 12));
    const __m256i fourfold = _mm256_or_si256(twice, _mm256_slli_epi32(twice, 6));
    return (Bytes<32>)_mm256_and_si256(fourfold, _mm256_set1_epi8(3));
#else
    uint8_t codes[32];
    for (int i = 0; i < 32; i++) codes[i] = bytes[i / 4] >> (2 * (i % 4)) & 3;
    return load<32>(codes);
#endif
}

}  // namespace KERNELS
