// The kernels that follow from what a block layout says about itself.
#pragma once

#include "../gemm_int8.h"
#include "dot_rows.h"

namespace KERNELS {

// Half 0 or 1 of 32 codes.
INLINE Codes<16> half_of(Bytes<32> v, int half) {
#if defined(__AVX2__)
    return (Codes<16>)(half ? _mm256_extracti128_si256((__m256i)v, 1)
                            : _mm256_castsi256_si128((__m256i)v));
#else
    return (Codes<16>)(half ? v.high : v.low);
#endif
}

// Sixteen weights, each made of its code by `weight`, a register at a time. (g++ uses half a
// register in a plain loop.)
template <class Weight>
INLINE void write_weights(Codes<16> codes, float* out, Weight weight) {
#if defined(__AVX512BW__)
    store(out, weight(floats_of((Ints<16>)_mm512_cvtepi8_epi32((__m128i)codes))));
#elif defined(__AVX2__)
    const __m128i low = (__m128i)codes, high = _mm_unpackhi_epi64(low, low);
    store(out, weight(floats_of((Ints<8>)_mm256_cvtepi8_epi32(low))));
    store(out + 8, weight(floats_of((Ints<8>)_mm256_cvtepi8_epi32(high))));
#else
    for (int i = 0; i < 16; i++) out[i] = weight((float)((const int8_t*)&codes)[i]);
#endif
}

template <class Type>
void decode_row(const uint8_t* row, int cols, float* out) {
    constexpr int8_t CENTER = Type::FORM == SYMMETRIC ? Type::CENTER : 0;
    for (int start = 0; start < cols; start += Type::BLOCK, row += Type::BYTES) {
        Scales<Type> of;
        Type::scales(row, of.scale, of.offset);
        for (int col = 0; col < Type::BLOCK; col += 32) {
            const Bytes<32> codes = Type::codes(row, col / 32);
            for (int half = 0; half < 2; half++) {
                const int sub = (col + 16 * half) / Type::SUB;
                const float scale = of.scale[sub], offset = of.offset[sub];
                write_weights(half_of(codes, half) - CENTER, out + start + col + 16 * half,
                              [&](auto code) ALWAYS_INLINE {
                                  if constexpr (Type::FORM == AFFINE) return code * scale + offset;
                                  if constexpr (Type::FORM == ZERO_POINT) {
                                      return (code - offset) * scale;
                                  }
                                  return code * scale;
                              });
            }
        }
    }
}

#if defined(HAS_PANELS)
// Whether a block has `factors`: the integers of its scales, which are d times them; returns d.
template <class Type, class = void>
constexpr bool HAS_FACTORS = false;
template <class Type>
constexpr bool HAS_FACTORS<Type, decltype((void)Type::factors(nullptr, nullptr))> =
    SHORT_SUMS<Type>;

// Columns that share a panel's scale.
template <class Type>
constexpr int SPAN_OF = HAS_FACTORS<Type>                    ? Type::BLOCK
                        : SHORT_SUMS<Type> && Type::SUB > 32 ? Type::SUB
                                                             : WIDTH_OF<Type>;

// Scales and offsets of a block, which begins at column `start` of its row.
template <class Type>
INLINE void unpack_scales(const uint8_t* block, int start, int row, Panel& panel) {
    constexpr int WIDTH = WIDTH_OF<Type>, SPAN = SPAN_OF<Type>;
    constexpr int MOVED = Type::FORM == SYMMETRIC ? 0 : panel_center<Type>() - CENTER_OF<Type>;
    Scales<Type> of;
    Type::scales(block, of.scale, of.offset);
    int16_t factors[Scales<Type>::COUNT] = {1};
    if constexpr (HAS_FACTORS<Type>) {
        panel.scales[start / SPAN * PANEL_ROWS + row] = Type::factors(block, factors);
    } else {
        for (int col = 0; col < Type::BLOCK; col += SPAN) {
            panel.scales[(start + col) / SPAN * PANEL_ROWS + row] = of.scale[col / Type::SUB];
        }
    }
    for (int col = 0; col < Type::BLOCK; col += WIDTH) {
        const int at = (start + col) / WIDTH * PANEL_ROWS + row, sub = col / Type::SUB;
        if (SHORT_SUMS<Type>) {
            const int16_t factor = HAS_FACTORS<Type> ? factors[sub] : 1;
            panel.factors[2 * at] = panel.factors[2 * at + 1] = factor;
        }
        if (Type::FORM != SYMMETRIC) {
            panel.offsets[at] = offset_of(of, sub) + (float)MOVED * of.scale[sub];
        }
    }
}

template <class Type>
void unpack_panel(const uint8_t* const* rows, Panel& panel) {
    panel.bits = Type::BITS;
    panel.span = SPAN_OF<Type>;
    panel.has_offsets = Type::FORM != SYMMETRIC;
    panel.has_center = panel_center<Type>() != 0;
    for (int start = 0, at = 0; start < panel.cols; start += Type::BLOCK, at += Type::BYTES) {
        for (int row = 0; row < PANEL_ROWS; row++) {
            unpack_scales<Type>(rows[row] + at, start, row, panel);
        }
        uint8_t* to = panel.codes + start * PANEL_ROWS;
        for (int part = 0; part < Type::BLOCK / 32; part++, to += 32 * PANEL_ROWS) {
            for (int first = 0; first < PANEL_ROWS; first += 8) {
                Bytes<32> codes[8];
                for (int r = 0; r < 8; r++) {
                    codes[r] = codes_of<Type>(rows[first + r] + at, part);
                }
                store_side_by_side(codes, to + 4 * first, 4 * PANEL_ROWS);
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
            const Bytes<32> codes = Type::codes(row, part);
            __m512 weights[2];
            for (int half = 0; half < 2; half++) {
                const int sub = (32 * part + 16 * half) / Type::SUB;
                const __m512 scale = _mm512_set1_ps(of.scale[sub]);
                const __m512i code = _mm512_cvtepi8_epi32((__m128i)half_of(codes, half));
                const __m512 offset = _mm512_set1_ps(offset_of(of, sub));
                weights[half] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(code), scale, offset);
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

template <class Type>
constexpr Layout layout_of(const char* name) {
    return {name,
            Type::BLOCK,
            Type::BYTES,
            decode_row<Type>,
            dot_rows<Type>,
            DECODE_BFLOAT<Type>,
            UNPACK_PANEL<Type>,
            WIDTH_OF<Type>,
            panel_center<Type>(),
            SHORT_SUMS<Type>};
}

}  // namespace KERNELS
