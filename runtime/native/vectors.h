// Sixteen codes at a time, in the vector types that g++ and clang share; the compiler spells each
// operation with what the instruction set has.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace KERNELS {

typedef uint8_t Bytes __attribute__((vector_size(16)));
typedef int8_t Codes __attribute__((vector_size(16)));

inline __attribute__((always_inline)) Bytes load_bytes(const void* address) {
    Bytes bytes;
    memcpy(&bytes, address, sizeof bytes);
    return bytes;
}

// Codes as float32, a register at a time: part 0..PARTS - 1 of the sixteen. (g++ keeps vectors
// wider than a register in memory, and uses half a register in a plain loop.)
#if defined(__AVX512F__)
constexpr int PARTS = 1;
typedef float Floats __attribute__((vector_size(64)));
inline __attribute__((always_inline)) Floats widen(Codes codes, int) {
    return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i)codes));
}
inline __attribute__((always_inline)) Floats widen(Bytes codes, int) {
    return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32((__m128i)codes));
}
#elif defined(__AVX2__)
constexpr int PARTS = 2;
typedef float Floats __attribute__((vector_size(32)));
inline __attribute__((always_inline)) __m128i eight(__m128i codes, int part) {
    return part == 0 ? codes : _mm_unpackhi_epi64(codes, codes);
}
inline __attribute__((always_inline)) Floats widen(Codes codes, int part) {
    return (Floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight((__m128i)codes, part)));
}
inline __attribute__((always_inline)) Floats widen(Bytes codes, int part) {
    return (Floats)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(eight((__m128i)codes, part)));
}
#else
constexpr int PARTS = 16;
typedef float Floats;
inline __attribute__((always_inline)) Floats widen(const Codes& codes, int part) {
    return (float)((const int8_t*)&codes)[part];
}
inline __attribute__((always_inline)) Floats widen(const Bytes& codes, int part) {
    return (float)((const uint8_t*)&codes)[part];
}
#endif

inline __attribute__((always_inline)) void store(float* out, int part, Floats values) {
    memcpy(out + part * (16 / PARTS), &values, sizeof values);
}

// Sixteen weights scale * code.
inline __attribute__((always_inline)) void write_scaled(Codes codes, float scale, float* out) {
    for (int part = 0; part < PARTS; part++) store(out, part, widen(codes, part) * scale);
}

// Sixteen weights scale * code + offset.
inline __attribute__((always_inline)) void write_affine(Bytes codes, float scale, float offset,
                                                        float* out) {
    for (int part = 0; part < PARTS; part++) store(out, part, widen(codes, part) * scale + offset);
}

// Sixteen weights (code - zero) * scale.
template <class Sixteen>
inline __attribute__((always_inline)) void write_from_zero(Sixteen codes, float zero, float scale,
                                                           float* out) {
    for (int part = 0; part < PARTS; part++) store(out, part, (widen(codes, part) - zero) * scale);
}

// 0 or 1 for each of 16 bits, the lowest bit of the first byte first.
inline __attribute__((always_inline)) Bytes spread_bits(const uint8_t bits[2]) {
    typedef uint64_t Longs __attribute__((vector_size(16)));
    const uint64_t copies = 0x0101010101010101;  // times a byte: the byte in all eight places
    const Bytes spread = (Bytes)(Longs){bits[0] * copies, bits[1] * copies};
    const Bytes one_each = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    return (Bytes)((spread & one_each) != 0) & 1;
}

// table[index] for 16 indices below 16.
inline __attribute__((always_inline)) Codes look_up(Codes table, Bytes indices) {
#if defined(__SSSE3__)
    return (Codes)_mm_shuffle_epi8((__m128i)table, (__m128i)indices);
#elif defined(__aarch64__)
    return (Codes)vqtbl1q_s8((int8x16_t)table, (uint8x16_t)indices);
#else
    Codes found;
    for (int i = 0; i < 16; i++) found[i] = table[indices[i]];
    return found;
#endif
}

// first[0], second[0], first[1], second[1], ... first[7], second[7].
inline __attribute__((always_inline)) Bytes interleave_low(Bytes first, Bytes second) {
#if defined(__SSE2__)
    return (Bytes)_mm_unpacklo_epi8((__m128i)first, (__m128i)second);
#elif defined(__aarch64__)
    return (Bytes)vzip1q_u8((uint8x16_t)first, (uint8x16_t)second);
#else
    Bytes pairs;
    for (int i = 0; i < 16; i++) pairs[i] = i % 2 ? second[i / 2] : first[i / 2];
    return pairs;
#endif
}

// first[8], second[8], first[9], second[9], ... first[15], second[15].
inline __attribute__((always_inline)) Bytes interleave_high(Bytes first, Bytes second) {
#if defined(__SSE2__)
    return (Bytes)_mm_unpackhi_epi8((__m128i)first, (__m128i)second);
#elif defined(__aarch64__)
    return (Bytes)vzip2q_u8((uint8x16_t)first, (uint8x16_t)second);
#else
    Bytes pairs;
    for (int i = 0; i < 16; i++) pairs[i] = i % 2 ? second[8 + i / 2] : first[8 + i / 2];
    return pairs;
#endif
}

}  // namespace KERNELS
