// float16, bfloat16 and float32 as they lie in a file: little-endian, at any address.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace KERNELS {

inline float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

inline float load_float(const uint8_t* bytes) {
    float value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

inline uint16_t load_u16(const uint8_t* bytes) { return (uint16_t)(bytes[0] | bytes[1] << 8); }

// Without branches, so that the compiler can do several at once.
inline float float_of_half(uint16_t half) {
    const uint32_t magnitude = (uint32_t)(half & 0x7fff) << 13;
    const uint32_t rebias = 112u << 23;  // float's exponent bias less float16's, 127 - 15
    // Subnormals: the same bits above 2^-14, less 2^-14; a subnormal float32 would be slow.
    const float least = float_of_bits(magnitude + rebias + (1u << 23)) - float_of_bits(113u << 23);
    const uint32_t special = magnitude >= 0x7c00u << 13 ? rebias : 0;  // infinity and NaN
    const float normal = float_of_bits(magnitude + rebias + special);
    const float absolute = magnitude < 0x0400u << 13 ? least : normal;
    uint32_t bits;
    memcpy(&bits, &absolute, sizeof bits);
    return float_of_bits(bits | (uint32_t)(half & 0x8000) << 16);
}

inline float load_half(const uint8_t* bytes) {
#if defined(__F16C__)
    return _cvtsh_ss(load_u16(bytes));
#else
    return float_of_half(load_u16(bytes));
#endif
}

inline float load_bfloat(const uint8_t* bytes) {
    return float_of_bits((uint32_t)load_u16(bytes) << 16);
}

}  // namespace KERNELS
