// AVX-512 and AMX for processors that have neither: SIMDe
// (https://github.com/simd-everywhere/simde) has most of the intrinsics that runtime/native uses,
// and the rest stand here, as Intel's Intrinsics Guide defines them. CMakeLists.txt compiles
// kernels with this file before all others, and with EMULATE_... in place of the flags of the
// compiler.
#pragma once

#include <immintrin.h>  // before the macros below: its AVX-512 half must not see them
#include <string.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512VL__ 1
#define __AVX512DQ__ 1
#if defined(EMULATE_AVX512VNNI)
#define __AVX512VNNI__ 1
#endif
#if defined(EMULATE_AVX512BF16)
#define __AVX512BF16__ 1
#endif

namespace emulated {

typedef int8_t Bytes16 __attribute__((vector_size(16)));
typedef uint16_t Shorts16 __attribute__((vector_size(32)));
typedef int32_t Ints16 __attribute__((vector_size(64)));
typedef float Floats16 __attribute__((vector_size(64)));

struct Halves {
    __m256 low, high;
};
inline Halves halves_of(__m512 v) {
    Halves halves;
    memcpy(&halves, &v, sizeof halves);
    return halves;
}
inline __m512 joined(__m256 low, __m256 high) {
    const Halves halves = {low, high};
    __m512 v;
    memcpy(&v, &halves, sizeof v);
    return v;
}

inline __m512 cvtph_ps(__m256i halves) {
    return joined(_mm256_cvtph_ps(_mm256_castsi256_si128(halves)),
                  _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1)));
}
inline __m256i cvtps_ph(__m512 v) {
    const Halves halves = halves_of(v);
    return _mm256_set_m128i(_mm256_cvtps_ph(halves.high, 0), _mm256_cvtps_ph(halves.low, 0));
}
inline __m512 i32gather_ps(__m512i index, const float* table) {
    const Ints16 at = (Ints16)index;
    Floats16 found;
    for (int lane = 0; lane < 16; lane++) found[lane] = table[at[lane]];
    return (__m512)found;
}

inline __m512 maskz_loadu_ps(__mmask16 mask, const void* from) {
    float values[16] = {};
    for (int lane = 0; lane < 16; lane++) {
        if (mask >> lane & 1) memcpy(values + lane, (const float*)from + lane, sizeof(float));
    }
    __m512 v;
    memcpy(&v, values, sizeof v);
    return v;
}
template <class Vector>
inline void mask_storeu_32(void* to, __mmask16 mask, Vector v) {
    uint32_t values[16];
    memcpy(values, &v, sizeof values);
    for (int lane = 0; lane < 16; lane++) {
        if (mask >> lane & 1) memcpy((uint32_t*)to + lane, values + lane, sizeof(uint32_t));
    }
}

// bfloat16 of a float32 that is neither subnormal nor NaN: to the nearest, halves to even.
inline uint16_t bfloat_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7f800000) == 0) return (uint16_t)(bits >> 16 & 0x8000);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline float float_of(uint16_t bfloat) {
    const uint32_t bits = (uint32_t)bfloat << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
inline Shorts16 cvtneps_pbh(__m512 v) {
    const Floats16 values = (Floats16)v;
    Shorts16 rounded;
    for (int lane = 0; lane < 16; lane++) rounded[lane] = bfloat_of(values[lane]);
    return rounded;
}
inline __m512i cvtne2ps_pbh(__m512 high, __m512 low) {
    const Shorts16 parts[2] = {cvtneps_pbh(low), cvtneps_pbh(high)};
    __m512i v;
    memcpy(&v, parts, sizeof v);
    return v;
}

struct Tile {
    float rows[16][16];
};
inline Tile& tile(int index) {
    static thread_local Tile tiles[8];
    return tiles[index];
}
inline void tile_load(int index, const void* from, ptrdiff_t stride) {
    for (int row = 0; row < 16; row++) {
        memcpy(tile(index).rows[row], (const char*)from + row * stride, 64);
    }
}
inline void tile_store(int index, void* to, ptrdiff_t stride) {
    for (int row = 0; row < 16; row++) {
        memcpy((char*)to + row * stride, tile(index).rows[row], 64);
    }
}
// sums[m][n] += a[m][2k] b[k][2n] + a[m][2k + 1] b[k][2n + 1]
inline void tile_dpbf16ps(int sums, int a, int b) {
    for (int m = 0; m < 16; m++) {
        for (int k = 0; k < 16; k++) {
            uint16_t left[2];
            memcpy(left, &tile(a).rows[m][k], sizeof left);
            for (int n = 0; n < 16; n++) {
                uint16_t right[2];
                memcpy(right, &tile(b).rows[k][n], sizeof right);
                tile(sums).rows[m][n] +=
                    float_of(left[0]) * float_of(right[0]) + float_of(left[1]) * float_of(right[1]);
            }
        }
    }
}

}  // namespace emulated

// SIMDe 0.7.4 gives this alias the arguments of another
#undef _mm512_madd_epi16
#define _mm512_madd_epi16(a, b) simde_mm512_madd_epi16(a, b)
#undef _mm512_cvtph_ps
#define _mm512_cvtph_ps(halves) emulated::cvtph_ps(halves)
#undef _mm512_cvtps_ph
#define _mm512_cvtps_ph(v, rounding) emulated::cvtps_ph(v)
#undef _mm512_extractf32x8_ps
#define _mm512_extractf32x8_ps(v, half) emulated::halves_of(v).high
#undef _mm512_i32gather_ps
#define _mm512_i32gather_ps(index, table, scale) emulated::i32gather_ps(index, table)
#undef _mm512_cvtepi32_ps
#define _mm512_cvtepi32_ps(v) \
    (__m512) __builtin_convertvector((emulated::Ints16)(v), emulated::Floats16)
#undef _mm512_cvtepi8_epi32
#define _mm512_cvtepi8_epi32(v) \
    (__m512i) __builtin_convertvector((emulated::Bytes16)(v), emulated::Ints16)
#undef _mm512_cvtepu16_epi32
#define _mm512_cvtepu16_epi32(v) \
    (__m512i) __builtin_convertvector((emulated::Shorts16)(v), emulated::Ints16)
#undef _mm512_maskz_loadu_ps
#define _mm512_maskz_loadu_ps(mask, from) emulated::maskz_loadu_ps(mask, from)
#undef _mm512_mask_storeu_ps
#define _mm512_mask_storeu_ps(to, mask, v) emulated::mask_storeu_32(to, mask, v)
#undef _mm512_mask_storeu_epi32
#define _mm512_mask_storeu_epi32(to, mask, v) emulated::mask_storeu_32(to, mask, v)
#undef _mm512_cvtneps_pbh
#define _mm512_cvtneps_pbh(v) emulated::cvtneps_pbh(v)
#undef _mm512_cvtne2ps_pbh
#define _mm512_cvtne2ps_pbh(high, low) emulated::cvtne2ps_pbh(high, low)

#if defined(EMULATE_AMX_BF16)
#define __AMX_BF16__ 1
#define __AMX_TILE__ 1
#undef _tile_loadconfig
#define _tile_loadconfig(config) (void)(config)
#undef _tile_release
#define _tile_release()
#undef _tile_zero
#define _tile_zero(index) (void)(emulated::tile(index) = {})
#undef _tile_loadd
#define _tile_loadd(index, from, stride) emulated::tile_load(index, from, stride)
#undef _tile_stored
#define _tile_stored(index, to, stride) emulated::tile_store(index, to, stride)
#undef _tile_dpbf16ps
#define _tile_dpbf16ps(sums, a, b) emulated::tile_dpbf16ps(sums, a, b)
#endif
