// What a block layout says about itself, and the kernels that follow from it.
//
// A layout is a struct (see any file beside this one) with
//   BLOCK, BYTES  weights and bytes of a block
//   SUB           columns that share a scale: 16, 32 or the whole block
//   SIGNED        whether codes are -128..127; otherwise they are 0..127
//   FORM          how a weight is made of its code
//   CENTER        of CENTERED: the code of weight zero
//   scales()      writes the scale of each SUB columns of a block, and its offset or zero
//   codes()       the codes of columns 32 * index .. 32 * index + 31 of a block
//
// One token, packed GB/s of one thread of a Sapphire Rapids (512 x 1536 weights in the cache):
//                    Q4_K  Q6_K
//   1 baseline        4.7   5.6   SSE2 pmaddwd
//   2 avx2           15.9  18.5   vpmaddubsw
//   3 avx_vnni       17.5  20.0   vpdpbusd; avx512_vnni and amx use it too
// Registers of 32 bytes are enough: three ports take them, and two take those of 64. Scales of eight
// short blocks at once (Q4_0, Q8_0) were no faster.
//
// From memory (600 MB in huge pages), GB/s of two threads of a Zen 4, on which numpy's sum reads 30:
//                                     Q8_0  Q4_0  Q4_K  Q6_K
//   the next four rows fetched ahead  17.4  19.5  24.4  23.8
//   four streams of rows              27.0  23.7  31.3  20.2
//   and 512 bytes of each fetched     34.5  28.4  31.5  30.6
// The rows of a call lie far apart, and the next call takes those after them: the processor sees
// four streams and fetches ahead of them, which it does not for rows that end after 15 lines.
#pragma once

#include "../kernels.h"
#include "../panel.h"
#include "../wide.h"

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

#if defined(HAS_PANELS)
template <class Type>
void unpack_panel(const uint8_t* const rows[PANEL_ROWS], Panel& panel) {
    constexpr int WIDTH = Type::SUB == 16 ? 16 : 32;
    panel.width = WIDTH;
    panel.is_signed = Type::SIGNED;
    for (int row = 0; row < PANEL_ROWS; row++) {
        const uint8_t* block = rows[row];
        for (int start = 0; start < panel.cols; start += Type::BLOCK, block += Type::BYTES) {
            Scales<Type> of;
            Type::scales(block, of.scale, of.offset);
            for (int col = 0; col < Type::BLOCK; col += WIDTH) {
                const int at = (start + col) / WIDTH * PANEL_ROWS + row;
                panel.scales[at] = of.scale[col / Type::SUB];
                panel.offsets[at] = offset_of(of, col / Type::SUB);
            }
            for (int part = 0; part < Type::BLOCK / 32; part++) {
                const Bytes32 codes = Type::codes(block, part);
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
constexpr void (*UNPACK_PANEL)(const uint8_t* const rows[PANEL_ROWS], Panel&) = nullptr;
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

// The activations of one call of dot_rows, from one column on.
struct Columns {
    const int8_t* codes;
    const float* scales;
    const float* sums;  // of the columns that share a weight's scale: 16 or 32
};

// The running sums of one row with one activation: scale * code, and what the offsets add.
struct Sums {
    Floats8 main, rest;
};

template <class Type>
constexpr bool HAS_REST = Type::FORM != CENTERED || Type::CENTER != 0;

// The factor of the activations' sums: `rest` is made of the scales alone where all zeros are one.
template <class Type>
INLINE Floats8 rest_factor(const Scales<Type>& of, int i) {
    if (Type::FORM == AFFINE) return load8(of.offset + i);
    if (Type::FORM == ZERO) return -(load8(of.offset + i) * load8(of.scale + i));
    return load8(of.scale + i);
}

// A block with eight or sixteen scales: what its 32-column parts are multiplied by.
template <class Type>
INLINE void multiply_scales(const Scales<Type>& of, const Columns& x, float* scales, Sums& sums) {
    constexpr int COUNT = Scales<Type>::COUNT;
    for (int i = 0; i < COUNT; i += 8) {
        const Floats8 of_x = COUNT == 8 ? load8(x.scales) : repeat_pairs(x.scales + i / 2);
        store8(scales + i, load8(of.scale + i) * of_x);
        if (HAS_REST<Type>) sums.rest = fused(rest_factor(of, i), load8(x.sums + i), sums.rest);
    }
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

template <class Type, int N>
INLINE void add_block(const uint8_t* block, const Columns x[N], Sums sums[N]) {
    constexpr int COUNT = Scales<Type>::COUNT, PARTS_OF_32 = Type::BLOCK / 32;
    Scales<Type> of;
    Type::scales(block, of.scale, of.offset);
    alignas(32) float scales[N][COUNT < 8 ? 8 : COUNT];
    for (int i = 0; i < N; i++) {
        if constexpr (COUNT > 1) multiply_scales<Type>(of, x[i], scales[i], sums[i]);
        if constexpr (COUNT == 1) multiply_scale<Type>(of, x[i], scales[i], sums[i]);
    }
    for (int part = 0; part < PARTS_OF_32; part++) {
        const Bytes32 codes = Type::codes(block, part);
        for (int i = 0; i < N; i++) {
            const Bytes32 xs = load32(x[i].codes + 32 * part);
            const Floats8 dots = Type::SIGNED ? dot32_signed(codes, xs) : dot32(codes, xs);
            const float* scale = scales[i] + (Type::SUB == 16 ? 2 * part : part);
            const Floats8 factor = Type::SUB == 16 ? repeat_two(scale, scale + 1) : repeat8(*scale);
            sums[i].main = fused(dots, factor, sums[i].main);
        }
    }
}

template <class Type>
INLINE float finish(const Sums& sums) {
    if (!HAS_REST<Type>) return total(sums.main);
    const float rest = Scales<Type>::COUNT > 1 ? total(sums.rest) : first_of(sums.rest);
    const float factor = Type::FORM == CENTERED ? (float)-Type::CENTER : 1.0f;
    return fused(factor, rest, total(sums.main));
}

// A sum is made of the same steps whatever N and its neighbours are.
template <class Type, int N>
void dot_some(const uint8_t* const rows[TILE_ROWS], const Quantized& x, int first, float* out) {
    constexpr int WIDTH = Type::SUB == 16 ? 16 : 32;
    const float* all_sums = WIDTH == 16 ? x.sums16 : x.sums32;
    Sums sums[TILE_ROWS][N] = {};
    for (int col = 0, at = 0; col < x.cols; col += Type::BLOCK, at += Type::BYTES) {
        Columns columns[N];
        for (int i = 0; i < N; i++) {
            const size_t from = (size_t)(first + i) * x.cols + col;
            columns[i] = {x.codes + from, x.scales + from / 32, all_sums + from / WIDTH};
        }
        for (int r = 0; r < TILE_ROWS; r++) {
            const uint8_t* block = rows[r] + at;
            for (int line = 0; line < Type::BYTES; line += 64) {
                __builtin_prefetch(block + AHEAD + line);
            }
            add_block<Type, N>(block, columns, sums[r]);
        }
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
    return {name,           Type::BLOCK,         Type::BYTES,       decode_row<Type>,
            dot_rows<Type>, DECODE_BFLOAT<Type>, UNPACK_PANEL<Type>};
}

}  // namespace KERNELS
