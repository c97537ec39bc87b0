// Codes out of the bytes of a block, 32 at a time.
#pragma once

#include "../simd.h"

namespace KERNELS {

// Each pair of bytes as one number, shifted: the caller masks away what crosses into a neighbour.
template <class V>
INLINE V shift_right(V v, int bits) {
    return (V)((Vec<uint16_t, sizeof(V) / 2>)v >> bits);
}
template <class V>
INLINE V shift_left(V v, int bits) {
    return (V)((Vec<uint16_t, sizeof(V) / 2>)v << bits);
}
template <class V>
INLINE Pair<V> shift_right(Pair<V> v, int bits) {
    return {shift_right(v.low, bits), shift_right(v.high, bits)};
}
template <class V>
INLINE Pair<V> shift_left(Pair<V> v, int bits) {
    return {shift_left(v.low, bits), shift_left(v.high, bits)};
}

#if defined(__AVX2__)

// table[index] for indices below 16.
INLINE Bytes<32> look_up(Codes<16> table, Bytes<32> indices) {
    const __m256i both = _mm256_broadcastsi128_si256((__m128i)table);
    return (Bytes<32>)_mm256_shuffle_epi8(both, (__m256i)indices);
}

// The low nibbles of 16 bytes, then their high nibbles.
INLINE Bytes<32> split_nibbles(const uint8_t* bytes) {
    const __m256i both = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)bytes));
    const __m256i shifted = _mm256_srlv_epi64(both, _mm256_setr_epi64x(0, 0, 4, 4));
    return (Bytes<32>)_mm256_and_si256(shifted, _mm256_set1_epi8(15));
}

// The nibbles of 16 bytes, the low one of each byte first.
INLINE Bytes<32> pair_nibbles(const uint8_t* bytes) {
    const __m256i words = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)bytes));
    const __m256i both = _mm256_or_si256(words, _mm256_slli_epi16(words, 4));
    return (Bytes<32>)_mm256_and_si256(both, _mm256_set1_epi8(15));
}

// 255 or 0 for each of 32 bits, the lowest bit of the first byte first.
INLINE Bytes<32> spread_bits(const uint8_t* bits) {
    uint32_t word;
    memcpy(&word, bits, sizeof word);
    const __m256i place = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2,
                                           2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i copies = _mm256_shuffle_epi8(_mm256_set1_epi32((int)word), place);
    const __m256i one_each = _mm256_set1_epi64x((long long)0x8040201008040201u);
    return (Bytes<32>)_mm256_cmpeq_epi8(_mm256_and_si256(copies, one_each), one_each);
}

// Four bytes of each of eight rows side by side: those of column 4 i at out + i * stride.
INLINE void store_side_by_side(const Bytes<32> rows[8], uint8_t* out, int stride) {
    __m256i pairs[8], fours[8];
    for (int r = 0; r < 8; r += 2) {
        pairs[r] = _mm256_unpacklo_epi32((__m256i)rows[r], (__m256i)rows[r + 1]);
        pairs[r + 1] = _mm256_unpackhi_epi32((__m256i)rows[r], (__m256i)rows[r + 1]);
    }
    for (int half = 0; half < 8; half += 4) {
        for (int i = 0; i < 2; i++) {
            const __m256i low = pairs[half + i], high = pairs[half + 2 + i];
            fours[half + 2 * i] = _mm256_unpacklo_epi64(low, high);
            fours[half + 2 * i + 1] = _mm256_unpackhi_epi64(low, high);
        }
    }
    for (int i = 0; i < 4; i++) {
        const __m256i low = _mm256_permute2x128_si256(fours[i], fours[4 + i], 0x20);
        const __m256i high = _mm256_permute2x128_si256(fours[i], fours[4 + i], 0x31);
        _mm256_storeu_si256((__m256i*)(out + i * stride), low);
        _mm256_storeu_si256((__m256i*)(out + (i + 4) * stride), high);
    }
}

// Eight bytes as floats.
INLINE Floats<8> floats_of_bytes(const uint8_t* bytes) {
    return floats_of((Ints<8>)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)bytes)));
}
INLINE Floats<8> floats_of_bytes(const int8_t* bytes) {
    return floats_of((Ints<8>)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)bytes)));
}

#else  // the same with registers of sixteen bytes

INLINE Bytes<16> look_up(Codes<16> table, Bytes<16> indices) {
#if defined(__SSSE3__)
    return (Bytes<16>)_mm_shuffle_epi8((__m128i)table, (__m128i)indices);
#elif defined(__aarch64__)
    return (Bytes<16>)vqtbl1q_s8((int8x16_t)table, (uint8x16_t)indices);
#else
    Bytes<16> found;
    for (int i = 0; i < 16; i++) found[i] = (uint8_t)table[indices[i]];
    return found;
#endif
}
INLINE Bytes<32> look_up(Codes<16> table, Bytes<32> indices) {
    return {look_up(table, indices.low), look_up(table, indices.high)};
}

INLINE Bytes<32> split_nibbles(const uint8_t* bytes) {
    const Bytes<16> both = load<16>(bytes);
    return {both & 15, both >> 4};
}

INLINE Bytes<32> pair_nibbles(const uint8_t* bytes) {
    const Bytes<16> low = load<16>(bytes) & 15, high = load<16>(bytes) >> 4;
#if defined(__SSE2__)
    return {(Bytes<16>)_mm_unpacklo_epi8((__m128i)low, (__m128i)high),
            (Bytes<16>)_mm_unpackhi_epi8((__m128i)low, (__m128i)high)};
#elif defined(__aarch64__)
    return {(Bytes<16>)vzip1q_u8((uint8x16_t)low, (uint8x16_t)high),
            (Bytes<16>)vzip2q_u8((uint8x16_t)low, (uint8x16_t)high)};
#else
    Bytes<16> halves[2];
    for (int i = 0; i < 32; i++) halves[i / 16][i % 16] = i % 2 ? high[i / 2] : low[i / 2];
    return {halves[0], halves[1]};
#endif
}

INLINE Bytes<16> spread_16_bits(const uint8_t* bits) {
    const uint64_t copies = 0x0101010101010101;  // times a byte: the byte in all eight places
    const Bytes<16> spread = (Bytes<16>)Vec<uint64_t, 2>{bits[0] * copies, bits[1] * copies};
    const Bytes<16> one_each = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    return (Bytes<16>)((spread & one_each) != 0);
}
INLINE Bytes<32> spread_bits(const uint8_t* bits) {
    return {spread_16_bits(bits), spread_16_bits(bits + 2)};
}

INLINE void store_side_by_side(const Bytes<32> rows[8], uint8_t* out, int stride) {
    for (int r = 0; r < 8; r++) {
        uint32_t fours[8];
        memcpy(fours, rows + r, sizeof fours);
        for (int i = 0; i < 8; i++) memcpy(out + i * stride + 4 * r, fours + i, 4);
    }
}

template <class Byte>
INLINE Floats<8> floats_of_bytes(const Byte* b) {
    return {Floats<4>{(float)b[0], (float)b[1], (float)b[2], (float)b[3]},
            Floats<4>{(float)b[4], (float)b[5], (float)b[6], (float)b[7]}};
}

#endif

}  // namespace KERNELS
