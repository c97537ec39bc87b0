// The arithmetic of attention: rows times a strip of the cache, and the running softmax.
//
// A strip is STRIP columns wide, so that keys (columns of q k) and channels (columns of p v) are
// multiplied by the same code, without a sum across a register. Ladder: 1 baseline, 2 avx2 (6 rows
// by 2 registers), 3 avx512 (8 rows by 2 registers). One shared core of Sapphire Rapids, 12 query
// and 2 key-value heads of 128 channels, float16:
//
//                              baseline   avx2   avx512
//   512 tokens, GFLOP/s              26     81       98
//   512 tokens after 3,584           27     93      133
//
// float16 becomes float32 on its way into a register; that costs a sixth of the time with 8 rows,
// so attention.cpp widens a strip first when more rows than TILE read it. For one token after 4,096
// memory is the limit: of 0.64 ms a layer, fetching AHEAD leaves 0.44, and large pages (cache.cpp)
// 0.30; the processor's own fetching stops at each page and each strip. float32 took 1.07 ms.
#include "exponential.h"
#include "kernels.h"
#include "ops.h"

namespace KERNELS {

#if defined(__AVX512F__)
constexpr int TILE = 8;  // rows whose sums stay in registers: 16 of 32
#else
constexpr int TILE = 6;  // 12 of 16
#endif
constexpr int SIDE = 2;            // registers side by side
constexpr uintptr_t AHEAD = 2048;  // bytes; 1,024 to 8,192 are as good

INLINE Floats<> load_floats(const float* address) { return load(address); }
// float16 in memory becomes float32 in the register.
INLINE Floats<> load_floats(const uint16_t* address) {
#if defined(__AVX512BW__)
    return (Floats<>)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)address));
#elif defined(__F16C__)
    return (Floats<>)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)address));
#elif defined(__aarch64__)
    return (Floats<>)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(address)));
#else
    Floats<> values;
    for (int i = 0; i < LANES; i++) values[i] = float_of_half(address[i]);
    return values;
#endif
}

INLINE float largest_of(Floats<> v) {
    float parts[LANES];
    store(parts, v);
    for (int width = LANES / 2; width > 0; width /= 2) {
        for (int i = 0; i < width; i++) {
            parts[i] = parts[i] > parts[i + width] ? parts[i] : parts[i + width];
        }
    }
    return parts[0];
}

// ROWS is a constant of the template: the loops over it unroll into registers.
template <int ROWS, typename Element>
static void tile(const float* a, ptrdiff_t a_stride, const Element* strip, int count,
                 const float* keep, float* out, ptrdiff_t out_stride) {
    for (int column = 0; column < STRIP; column += SIDE * LANES) {
        Floats<> sums[ROWS][SIDE];
        for (int r = 0; r < ROWS; r++) {
            for (int s = 0; s < SIDE; s++) {
                const float* old = out + r * out_stride + column + s * LANES;
                sums[r][s] = keep ? load(old) * keep[r] : Floats<>{};
            }
        }
        for (int i = 0; i < count; i++) {
            // what was widened lies in the cache already
            if (sizeof(Element) == 2) {
                __builtin_prefetch((const void*)((uintptr_t)(strip + (size_t)i * STRIP) + AHEAD));
            }
            Floats<> values[SIDE];
            for (int s = 0; s < SIDE; s++) {
                values[s] = load_floats(strip + (size_t)i * STRIP + column + s * LANES);
            }
            for (int r = 0; r < ROWS; r++) {
                for (int s = 0; s < SIDE; s++) sums[r][s] += a[r * a_stride + i] * values[s];
            }
        }
        for (int r = 0; r < ROWS; r++) {
            for (int s = 0; s < SIDE; s++) {
                store(out + r * out_stride + column + s * LANES, sums[r][s]);
            }
        }
    }
}

template <typename Element>
static void tile_of(int rows, const float* a, ptrdiff_t a_stride, const Element* strip, int count,
                    const float* keep, float* out, ptrdiff_t out_stride) {
    switch (rows) {
        case 1: return tile<1>(a, a_stride, strip, count, keep, out, out_stride);
        case 2: return tile<2>(a, a_stride, strip, count, keep, out, out_stride);
        case 3: return tile<3>(a, a_stride, strip, count, keep, out, out_stride);
        case 4: return tile<4>(a, a_stride, strip, count, keep, out, out_stride);
        case 5: return tile<5>(a, a_stride, strip, count, keep, out, out_stride);
        case 6: return tile<6>(a, a_stride, strip, count, keep, out, out_stride);
        case 7: return tile<7>(a, a_stride, strip, count, keep, out, out_stride);
        default: return tile<8>(a, a_stride, strip, count, keep, out, out_stride);
    }
}

template <typename Element>
static void times_strip(const float* a, ptrdiff_t a_stride, int rows, const Element* strip,
                        int count, const float* keep, float* out, ptrdiff_t out_stride) {
    // tiles of nearly equal height: 7 rows are 4 and 3, as 1 alone would wait for each addition
    const int tiles = (rows + TILE - 1) / TILE;
    for (int t = 0; t < tiles; t++) {
        const int start = rows * t / tiles, stop = rows * (t + 1) / tiles;
        tile_of(stop - start, a + start * a_stride, a_stride, strip, count,
                keep ? keep + start : nullptr, out + start * out_stride, out_stride);
    }
}

void times_strip_f16(const float* a, ptrdiff_t a_stride, int rows, const void* strip, int count,
                     const float* keep, float* out, ptrdiff_t out_stride) {
    times_strip(a, a_stride, rows, (const uint16_t*)strip, count, keep, out, out_stride);
}

void times_strip_f32(const float* a, ptrdiff_t a_stride, int rows, const void* strip, int count,
                     const float* keep, float* out, ptrdiff_t out_stride) {
    times_strip(a, a_stride, rows, (const float*)strip, count, keep, out, out_stride);
}

float softmax_step(float* scores, int keys, int seen, float* largest, float* sum) {
    if (seen <= 0) {
        memset(scores, 0, (size_t)keys * sizeof(float));
        return 1.0f;
    }
    const float hidden = -__builtin_inff();
    for (int key = seen; key < keys; key++) scores[key] = hidden;
    Floats<> highest = load(scores);
    for (int key = LANES; key < keys; key += LANES) {
        highest = at_least(load(scores + key), highest);
    }
    const float old = *largest, found = largest_of(highest);
    const float now = old > found ? old : found;
    Floats<> sums = {};
    for (int key = 0; key < keys; key += LANES) {
        const Floats<> weight = exponential(load(scores + key) - now);
        store(scores + key, weight);
        sums += weight;
    }
    float change[LANES] = {};
    change[0] = old - now;
    store(change, exponential(load(change)));
    *sum = *sum * change[0] + total(sums);
    *largest = now;
    return change[0];
}

// Round to nearest, ties to even, as numpy does; what is too large becomes infinity.
static inline uint16_t half_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00);   // NaN
    if (magnitude >= 0x47800000) return (uint16_t)(sign | 0x7c00);  // 2^16 and above
    if (magnitude < 0x38800000) {                                   // below 2^-14: subnormal
        const float shifted = float_of_bits(magnitude) + 0.5f;      // its last bit is worth 2^-24
        uint32_t rounded;
        memcpy(&rounded, &shifted, sizeof rounded);
        return (uint16_t)(sign | (rounded - 0x3f000000));
    }
    const uint32_t even = magnitude >> 13 & 1;
    return (uint16_t)(sign | ((magnitude + 0xfff + even - (112u << 23)) >> 13));
}

void to_f16(const float* values, int count, uint16_t* out) {
    int at = 0;
#if defined(__F16C__)
    for (; at + 8 <= count; at += 8) {
        const __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(values + at), 0);
        _mm_storeu_si128((__m128i*)(out + at), halves);
    }
#endif
    for (; at < count; at++) out[at] = half_of_float(values[at]);
}

void to_f32(const uint16_t* values, int count, float* out) {
    for (int at = 0; at < count; at += LANES) store(out + at, load_floats(values + at));
}

}  // namespace KERNELS
