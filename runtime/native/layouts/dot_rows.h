// Products of packed rows with the int8 activations of a few tokens.
//
// One token, packed GB/s of one thread of a Zen 4 (512 x 1536 weights in the cache):
//                     Q4_K  Q6_K  Q4_0  Q8_0
//   1 baseline         4.8   6.1   5.8  12.3   SSE2 pmaddwd
//   2 avx2            17.3  17.1  15.7  29.2   vpmaddubsw
//   3 avx512          17.3  21.7  15.6  29.2   64 columns at once where a block has several scales
//   4 avx512_vnni     19.1  23.3  19.1  39.4   vpdpbusd; avx512_bf16 and amx use it too
// avx_vnni is rung 2 with vpdpbusd; on a Sapphire Rapids it took avx2 from 15.9 to 17.5 (Q4_K) and
// from 18.5 to 20.0 (Q6_K), one row after the other.
// Four rows go step by step together, so that their sums do not wait for each other: one row after
// the other gave 17.7 (Q4_K) and 21.5 (Q6_K) on rung 4, and 32 columns at once 16.4 and 17.3.
// Scales of eight short blocks at once (Q4_0, Q8_0), and those of Q4_K unpacked in a register, were
// no faster.
//
// From memory (600 MB in huge pages), before the last two steps, GB/s of two threads of a Zen 4, on
// which numpy's sum reads 30:
//                                     Q8_0  Q4_0  Q4_K  Q6_K
//   the next four rows fetched ahead  17.4  19.5  24.4  23.8
//   four streams of rows              27.0  23.7  31.3  20.2
//   and 512 bytes of each fetched     34.5  28.4  31.5  30.6
// The rows of a call lie far apart, and the next call takes those after them: the processor sees
// four streams and fetches ahead of them, which it does not for rows that end after 15 lines.
#pragma once

#include "block.h"

namespace KERNELS {

constexpr int AHEAD = 512;  // bytes of each row that are fetched into the cache before their turn

#if defined(__AVX2__)
// first in lanes 0..3, second in lanes 4..7.
INLINE Floats<8> repeat_two(const float* first, const float* second) {
    return (Floats<8>)_mm256_blend_ps(_mm256_broadcast_ss(first), _mm256_broadcast_ss(second),
                                      0xf0);
}
// Each of four floats twice.
INLINE Floats<8> repeat_pairs(const float* four) {
    const __m256 both = _mm256_broadcast_ps((const __m128*)four);
    return (Floats<8>)_mm256_permutevar_ps(both, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
}
#else
INLINE Floats<8> repeat_two(const float* first, const float* second) {
    return {repeat<4>(*first), repeat<4>(*second)};
}
INLINE Floats<8> repeat_pairs(const float* four) {
    return {Floats<4>{four[0], four[0], four[1], four[1]},
            Floats<4>{four[2], four[2], four[3], four[3]}};
}
#endif
#if defined(__AVX512BW__)
INLINE Floats<16> join(Floats<8> low, Floats<8> high) {
    return (Floats<16>)_mm512_insertf32x8(_mm512_castps256_ps512((__m256)low), (__m256)high, 1);
}
INLINE Bytes<64> join(Bytes<32> low, Bytes<32> high) {
    return (Bytes<64>)_mm512_inserti64x4(_mm512_castsi256_si512((__m256i)low), (__m256i)high, 1);
}
INLINE Floats<16> pick(Floats<16> v, Ints<16> lanes) {
    return (Floats<16>)_mm512_permutexvar_ps((__m512i)lanes, (__m512)v);
}
#endif

// The activations of one call of dot_rows, from one column on; see Quantized.
struct Columns {
    const int8_t* codes;
    const float *scales, *sums;
    const int32_t* starts;
};

// Blocks of one scale begin their products with the center's; other centers count as offsets.
template <class Type>
constexpr bool HAS_START = Scales<Type>::COUNT == 1 && CENTER_OF<Type> != 0;
template <class Type>
constexpr bool HAS_REST =
    Type::FORM != SYMMETRIC || (Scales<Type>::COUNT > 1 && CENTER_OF<Type> != 0);

// Blocks of several scales are multiplied 64 columns at a time where registers are that long.
template <class Type>
constexpr bool IN_PAIRS = LANES == 16 && Scales<Type>::COUNT > 1;
constexpr int LONGEST = LANES == 16 ? 16 : 8;

// The running sums of one row with one activation: scale * code (in `pairs` where IN_PAIRS), and
// what the offsets add.
struct Sums {
    Floats<8> main, rest;
    Floats<LONGEST> pairs;
};

// The scales of a row's block times those of an activation.
template <class Type>
struct Factors {
    static constexpr int COUNT = Scales<Type>::COUNT;
    alignas(32) float scales[COUNT < 8 ? 8 : COUNT];
    Floats<LONGEST> pairs;
};

// The factor of the activations' sums: `rest` is made of the scales alone where all zeros are one.
template <class Type>
INLINE Floats<8> rest_factor(const Scales<Type>& of, int i) {
    if (Type::FORM == AFFINE) return load<8>(of.offset + i);
    if (Type::FORM == ZERO_POINT) return -(load<8>(of.offset + i) * load<8>(of.scale + i));
    return load<8>(of.scale + i);
}

// Eight scales of a block from i on, times those of the activations.
template <class Type>
INLINE Floats<8> multiply_scales(const Scales<Type>& of, const Columns& x, int i, Sums& sums) {
    const Floats<8> of_x = Type::SUB == 16 ? repeat_pairs(x.scales + i / 2) : load<8>(x.scales);
    if (HAS_REST<Type>) sums.rest = fused(rest_factor(of, i), load<8>(x.sums + i), sums.rest);
    return load<8>(of.scale + i) * of_x;
}

// A block with one scale: all 32-column parts share it.
template <class Type>
INLINE void multiply_scale(const Scales<Type>& of, const Columns& x, float* scales, Sums& sums) {
    for (int part = 0; part < Type::BLOCK / 32; part++) {
        scales[part] = of.scale[0] * x.scales[part];
        // one lane is enough, but a vector is as fast; `finish` takes the first
        const Floats<8> sum = repeat<8>(x.sums[part]);
        if (HAS_REST<Type>) sums.rest = fused(rest_factor(of, 0), sum, sums.rest);
    }
}

// The first step of a block: its scales, and what its offsets add.
template <class Type, int N>
INLINE void read_scales(const uint8_t* block, const Columns x[N], Factors<Type> out[N],
                        Sums sums[N]) {
    Scales<Type> of;
    Type::scales(block, of.scale, of.offset);
    for (int i = 0; i < N; i++) {
        if constexpr (IN_PAIRS<Type>) {
            const Floats<8> low = multiply_scales<Type>(of, x[i], 0, sums[i]);
            const bool more = Scales<Type>::COUNT > 8;
            out[i].pairs = join(low, more ? multiply_scales<Type>(of, x[i], 8, sums[i]) : low);
        } else if constexpr (Scales<Type>::COUNT == 1) {
            multiply_scale<Type>(of, x[i], out[i].scales, sums[i]);
        } else {
            for (int at = 0; at < Scales<Type>::COUNT; at += 8) {
                store(out[i].scales + at, multiply_scales<Type>(of, x[i], at, sums[i]));
            }
        }
    }
}

template <class Type, class Sums, class Weights, class X>
INLINE auto dots_of(Sums from, Weights codes, X x) {
    return floats_of(SIGNED<Type> ? add_dot_signed(from, codes, x) : add_dot(from, codes, x));
}

// Columns 32 * part .. 32 * part + 31 of a block.
template <class Type, int N>
INLINE void add_32(const uint8_t* block, int part, const Columns x[N],
                   const Factors<Type> factors[N], Sums sums[N]) {
    const Bytes<32> codes = codes_of<Type>(block, part);
    for (int i = 0; i < N; i++) {
        const Codes<32> xs = load<32>(x[i].codes + 32 * part);
        const Ints<8> from = HAS_START<Type> ? first_lane<8>(x[i].starts[part]) : Ints<8>{};
        const Floats<8> dots = dots_of<Type>(from, codes, xs);
        const float* scale = factors[i].scales + (Type::SUB == 16 ? 2 * part : part);
        const Floats<8> factor = Type::SUB == 16 ? repeat_two(scale, scale + 1) : repeat<8>(*scale);
        sums[i].main = fused(dots, factor, sums[i].main);
    }
}

#if defined(__AVX512BW__)
// Which scale each sum of four columns takes.
template <class Type>
struct Lanes4 {
    int32_t scale[Type::BLOCK / 4];
    constexpr Lanes4() : scale() {
        for (int i = 0; i < Type::BLOCK / 4; i++) scale[i] = 4 * i / Type::SUB;
    }
};
template <class Type>
constexpr Lanes4<Type> LANES4;

// Columns 64 * pair .. 64 * pair + 63 of a block.
template <class Type, int N>
INLINE void add_64(const uint8_t* block, int pair, const Columns x[N],
                   const Factors<Type> factors[N], Sums sums[N]) {
    const Bytes<64> codes =
        join(codes_of<Type>(block, 2 * pair), codes_of<Type>(block, 2 * pair + 1));
    const Ints<16> lanes = load<16>(LANES4<Type>.scale + 16 * pair);
    for (int i = 0; i < N; i++) {
        const Codes<64> xs = load<64>(x[i].codes + 64 * pair);
        const Floats<16> dots = dots_of<Type>(Ints<16>{}, codes, xs);
        sums[i].pairs = fused(dots, pick(factors[i].pairs, lanes), sums[i].pairs);
    }
}
#endif

// Columns STEP_OF * step .. of a block.
template <class Type>
constexpr int STEP_OF = IN_PAIRS<Type> ? 64 : 32;

template <class Type, int N>
INLINE void add_columns(const uint8_t* block, int step, const Columns x[N],
                        const Factors<Type> factors[N], Sums sums[N]) {
#if defined(__AVX512BW__)
    if constexpr (IN_PAIRS<Type>) return add_64<Type, N>(block, step, x, factors, sums);
#endif
    add_32<Type, N>(block, step, x, factors, sums);
}

// A block of TILE_ROWS rows, step by step: in one row alone, each sum waits for the one before.
template <class Type, int N>
INLINE void add_block(const uint8_t* const rows[TILE_ROWS], int at, const Columns x[N],
                      Sums sums[TILE_ROWS][N]) {
    Factors<Type> factors[TILE_ROWS][N];
    const auto read = [&](int r) ALWAYS_INLINE {
        for (int line = 0; line < Type::BYTES; line += 64) {
            __builtin_prefetch(rows[r] + at + AHEAD + line);
        }
        read_scales<Type, N>(rows[r] + at, x, factors[r], sums[r]);
    };
    const auto add = [&](int step, int r) ALWAYS_INLINE {
        add_columns<Type, N>(rows[r] + at, step, x, factors[r], sums[r]);
    };
    constexpr int STEPS = Type::BLOCK / STEP_OF<Type>;
    if constexpr (N == 1) {  // all sums in registers
#pragma GCC unroll 4
        for (int r = 0; r < TILE_ROWS; r++) read(r);
#pragma GCC unroll 8
        for (int step = 0; step < STEPS; step++) {
#pragma GCC unroll 4
            for (int r = 0; r < TILE_ROWS; r++) add(step, r);
        }
    } else {
        for (int r = 0; r < TILE_ROWS; r++) read(r);
        for (int step = 0; step < STEPS; step++) {
            for (int r = 0; r < TILE_ROWS; r++) add(step, r);
        }
    }
}

template <class Type>
INLINE float finish(const Sums& sums) {
    const float main = IN_PAIRS<Type> ? total(sums.pairs) : total(sums.main);
    if (!HAS_REST<Type>) return main;
    const float rest = Scales<Type>::COUNT > 1 ? total(sums.rest) : first_of(sums.rest);
    const float factor = Type::FORM == SYMMETRIC ? (float)-CENTER_OF<Type> : 1.0f;
    return fused(factor, rest, main);
}

// A sum is made of the same steps whatever N and its neighbours are.
template <class Type, int N>
void dot_some(const uint8_t* const rows[TILE_ROWS], const Quantized& x, int first, float* out) {
    Sums sums[TILE_ROWS][N];
    for (int r = 0; r < TILE_ROWS; r++) {
        for (int i = 0; i < N; i++) {
            sums[r][i] = {repeat<8>(0.0f), repeat<8>(0.0f), repeat<LONGEST>(0.0f)};
        }
    }
    for (int col = 0, at = 0; col < x.cols; col += Type::BLOCK, at += Type::BYTES) {
        Columns columns[N];
        for (int i = 0; i < N; i++) {
            const size_t from = (size_t)(first + i) * x.cols + col;
            const size_t sub = from / WIDTH_OF<Type>;
            columns[i] = {x.codes + from, x.scales + from / 32, x.sums + sub, x.starts + sub};
        }
        add_block<Type, N>(rows, at, columns, sums);
    }
    for (int i = 0; i < N; i++) {
        for (int r = 0; r < TILE_ROWS; r++) out[i * TILE_ROWS + r] = finish<Type>(sums[r][i]);
    }
}

template <class Type>
void dot_rows(const uint8_t* const rows[TILE_ROWS], const Quantized& x, int first, int n,
              float* out) {
    switch (n) {
        case 1: return dot_some<Type, 1>(rows, x, first, out);
        case 2: return dot_some<Type, 2>(rows, x, first, out);
        default: return dot_some<Type, MOST_X>(rows, x, first, out);
    }
}

}  // namespace KERNELS
