// What a block layout says about itself, and the kernels that follow from it.
//
// A layout is a struct (see any file beside this one) with
//   BLOCK, BYTES  weights and bytes of a block
//   SUB           columns that share a scale: 16, 32 or the whole block
//   BITS          of a code: -128..127 with 8, unsigned with fewer
//   FORM          how a weight is made of its code
//   CENTER        of CENTERED: the code of weight zero
//   scales()      writes the scale of each SUB columns of a block, and its offset or zero
//   codes()       the codes of columns 32 * index .. 32 * index + 31 of a block
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

#include "../gemm_int8.h"
#include "../kernels.h"
#include "../wide512.h"

namespace KERNELS {

constexpr int AHEAD = 512;  // bytes of each row that are fetched into the cache before their turn

enum Form {
    CENTERED,  // weight = (code - CENTER) * scale
    AFFINE,    // weight = code * scale + offset
    ZERO,      // weight = (code - zero) * scale
};

// Scales (and offsets or zeros) of a block; room for a vector also where there is one only.
template <class Type>
struct Scales {
    static constexpr int COUNT = Type::BLOCK / Type::SUB;
    alignas(32) float scale[COUNT < 8 ? 8 : COUNT];
    alignas(32) float offset[COUNT < 8 ? 8 : COUNT];
};

template <class Type>
void decode_row(const uint8_t* row, int cols, float* out) {
    for (int start = 0; start < cols; start += Type::BLOCK, row += Type::BYTES) {
        Scales<Type> of;
        Type::scales(row, of.scale, of.offset);
        for (int col = 0; col < Type::BLOCK; col += 32) {
            const Bytes32 codes = Type::codes(row, col / 32);
            for (int half = 0; half < 2; half++) {
                const Bytes part = half_of(codes, half);
                const int sub = (col + 16 * half) / Type::SUB;
                float* to = out + start + col + 16 * half;
                if (Type::FORM == AFFINE) write_affine(part, of.scale[sub], of.offset[sub], to);
                if (Type::FORM == CENTERED) {
                    write_scaled((Codes)part - (int8_t)Type::CENTER, of.scale[sub], to);
                }
                if (Type::FORM == ZERO) {
                    write_from_zero((Codes)part, of.offset[sub], of.scale[sub], to);
                }
            }
        }
    }
}

// The offset o of weight = code * scale + o, whatever the form.
template <class Type>
INLINE float offset_of(const Scales<Type>& of, int sub) {
    if (Type::FORM == AFFINE) return of.offset[sub];
    if (Type::FORM == ZERO) return -of.offset[sub] * of.scale[sub];
    return (float)-Type::CENTER * of.scale[sub];
}

// Columns that share a scale, of at most 32 that are multiplied at once.
template <class Type>
constexpr int WIDTH_OF = Type::SUB == 16 ? 16 : 32;

// Signed codes are multiplied as 0..255 where the instruction set can.
template <class Type>
constexpr bool SHIFTED = Type::BITS == 8 && FULL_BYTES;
template <class Type>
constexpr bool SIGNED = Type::BITS == 8 && !FULL_BYTES;

template <class Type>
INLINE Bytes32 codes_of(const uint8_t* block, int part) {
    const Bytes32 codes = Type::codes(block, part);
    return SHIFTED<Type> ? codes ^ repeat32(128) : codes;
}

// The code of weight zero, but for the offsets of FORM ZERO and AFFINE.
template <class Type>
constexpr int CENTER_OF = (Type::FORM == CENTERED ? Type::CENTER : 0) + (SHIFTED<Type> ? 128 : 0);

#if defined(HAS_PANELS)
template <class Type>
void unpack_panel(const uint8_t* const* rows, Panel& panel) {
    constexpr int WIDTH = WIDTH_OF<Type>;
    panel.bits = Type::BITS;
    panel.has_offsets = Type::FORM != CENTERED;
    for (int row = 0; row < PANEL_ROWS; row++) {
        const uint8_t* block = rows[row];
        for (int start = 0; start < panel.cols; start += Type::BLOCK, block += Type::BYTES) {
            Scales<Type> of;
            Type::scales(block, of.scale, of.offset);
            for (int col = 0; col < Type::BLOCK; col += WIDTH) {
                const int at = (start + col) / WIDTH * PANEL_ROWS + row;
                panel.scales[at] = of.scale[col / Type::SUB];
                if (Type::FORM != CENTERED) panel.offsets[at] = offset_of(of, col / Type::SUB);
            }
            for (int part = 0; part < Type::BLOCK / 32; part++) {
                const Bytes32 codes = codes_of<Type>(block, part);
                uint32_t fours[8];
                memcpy(fours, &codes, sizeof fours);
                uint8_t* to = panel.codes + (start + 32 * part) * PANEL_ROWS + 4 * row;
                for (int i = 0; i < 8; i++) memcpy(to + 4 * PANEL_ROWS * i, fours + i, 4);
            }
        }
    }
}
template <class Type>
constexpr auto UNPACK_PANEL = unpack_panel<Type>;
#else
template <class Type>
constexpr void (*UNPACK_PANEL)(const uint8_t* const*, Panel&) = nullptr;
#endif

#if defined(__AVX512BF16__)
template <class Type>
void decode_bfloat(const uint8_t* row, int cols, ptrdiff_t stride, uint16_t* out) {
    for (int start = 0; start < cols; start += Type::BLOCK, row += Type::BYTES) {
        Scales<Type> of;
        Type::scales(row, of.scale, of.offset);
        for (int part = 0; part < Type::BLOCK / 32; part++, out += stride) {
            const Bytes32 codes = Type::codes(row, part);
            __m512 weights[2];
            for (int half = 0; half < 2; half++) {
                const int sub = (32 * part + 16 * half) / Type::SUB;
                const __m512 scale = _mm512_set1_ps(of.scale[sub]);
                const __m512 code = (__m512)widen((Codes)half_of(codes, half), 0);
                const __m512 offset = _mm512_set1_ps(offset_of(of, sub));
                weights[half] = _mm512_fmadd_ps(code, scale, offset);
            }
            _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(weights[1], weights[0]));
        }
    }
}
template <class Type>
constexpr auto DECODE_BFLOAT = decode_bfloat<Type>;
#else
template <class Type>
constexpr void (*DECODE_BFLOAT)(const uint8_t*, int, ptrdiff_t, uint16_t*) = nullptr;
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
    Type::FORM != CENTERED || (Scales<Type>::COUNT > 1 && CENTER_OF<Type> != 0);

// Blocks of several scales are multiplied 64 columns at a time where registers are that long.
#if defined(__AVX512BW__)
template <class Type>
constexpr bool IN_PAIRS = Scales<Type>::COUNT > 1;
typedef Floats16 Longest;
#else
template <class Type>
constexpr bool IN_PAIRS = false;
typedef Floats8 Longest;
#endif

// The running sums of one row with one activation: scale * code (in `pairs` where IN_PAIRS), and
// what the offsets add.
struct Sums {
    Floats8 main, rest;
    Longest pairs;
};

// The scales of a row's block times those of an activation.
template <class Type>
struct Factors {
    static constexpr int COUNT = Scales<Type>::COUNT;
    alignas(32) float scales[COUNT < 8 ? 8 : COUNT];
    Longest pairs;
};

// The factor of the activations' sums: `rest` is made of the scales alone where all zeros are one.
template <class Type>
INLINE Floats8 rest_factor(const Scales<Type>& of, int i) {
    if (Type::FORM == AFFINE) return load8(of.offset + i);
    if (Type::FORM == ZERO) return -(load8(of.offset + i) * load8(of.scale + i));
    return load8(of.scale + i);
}

// Eight scales of a block from i on, times those of the activations.
template <class Type>
INLINE Floats8 multiply_scales(const Scales<Type>& of, const Columns& x, int i, Sums& sums) {
    const Floats8 of_x = Type::SUB == 16 ? repeat_pairs(x.scales + i / 2) : load8(x.scales);
    if (HAS_REST<Type>) sums.rest = fused(rest_factor(of, i), load8(x.sums + i), sums.rest);
    return load8(of.scale + i) * of_x;
}

// A block with one scale: all 32-column parts share it.
template <class Type>
INLINE void multiply_scale(const Scales<Type>& of, const Columns& x, float* scales, Sums& sums) {
    for (int part = 0; part < Type::BLOCK / 32; part++) {
        scales[part] = of.scale[0] * x.scales[part];
        // one lane is enough, but a vector is as fast; `finish` takes the first
        const Floats8 sum = repeat8(x.sums[part]);
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
            const Floats8 low = multiply_scales<Type>(of, x[i], 0, sums[i]);
            const bool more = Scales<Type>::COUNT > 8;
            out[i].pairs = join(low, more ? multiply_scales<Type>(of, x[i], 8, sums[i]) : low);
        } else if constexpr (Scales<Type>::COUNT == 1) {
            multiply_scale<Type>(of, x[i], out[i].scales, sums[i]);
        } else {
            for (int at = 0; at < Scales<Type>::COUNT; at += 8) {
                store8(out[i].scales + at, multiply_scales<Type>(of, x[i], at, sums[i]));
            }
        }
    }
}

template <class Type, class Ints, class Bytes>
INLINE auto dots_of(Ints from, Bytes codes, Bytes x) {
    return floats_of(SIGNED<Type> ? add_dot_signed(from, codes, x) : add_dot(from, codes, x));
}

// Columns 32 * part .. 32 * part + 31 of a block.
template <class Type, int N>
INLINE void add_32(const uint8_t* block, int part, const Columns x[N],
                   const Factors<Type> factors[N], Sums sums[N]) {
    const Bytes32 codes = codes_of<Type>(block, part);
    for (int i = 0; i < N; i++) {
        const Bytes32 xs = load32(x[i].codes + 32 * part);
        const Ints8 from = HAS_START<Type> ? first_lane(x[i].starts[part]) : Ints8{};
        const Floats8 dots = dots_of<Type>(from, codes, xs);
        const float* scale = factors[i].scales + (Type::SUB == 16 ? 2 * part : part);
        const Floats8 factor = Type::SUB == 16 ? repeat_two(scale, scale + 1) : repeat8(*scale);
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
    const Bytes64 codes =
        join(codes_of<Type>(block, 2 * pair), codes_of<Type>(block, 2 * pair + 1));
    const Ints16 lanes = (Ints16)load64(LANES4<Type>.scale + 16 * pair);
    for (int i = 0; i < N; i++) {
        const Bytes64 xs = load64(x[i].codes + 64 * pair);
        const Floats16 dots = dots_of<Type>(Ints16{}, codes, xs);
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
    const auto read = [&](int r) __attribute__((always_inline)) {
        for (int line = 0; line < Type::BYTES; line += 64) {
            __builtin_prefetch(rows[r] + at + AHEAD + line);
        }
        read_scales<Type, N>(rows[r] + at, x, factors[r], sums[r]);
    };
    const auto add = [&](int step, int r) __attribute__((always_inline)) {
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
    const float factor = Type::FORM == CENTERED ? (float)-CENTER_OF<Type> : 1.0f;
    return fused(factor, rest, main);
}

// A sum is made of the same steps whatever N and its neighbours are.
template <class Type, int N>
void dot_some(const uint8_t* const rows[TILE_ROWS], const Quantized& x, int first, float* out) {
    Sums sums[TILE_ROWS][N];
    for (int r = 0; r < TILE_ROWS; r++) {
        for (int i = 0; i < N; i++) sums[r][i] = {repeat8(0), repeat8(0), Longest{}};
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

template <class Type>
constexpr Layout layout_of(const char* name) {
    return {name,           Type::BLOCK,         Type::BYTES,        decode_row<Type>,
            dot_rows<Type>, DECODE_BFLOAT<Type>, UNPACK_PANEL<Type>, WIDTH_OF<Type>,
            CENTER_OF<Type>};
}

}  // namespace KERNELS
