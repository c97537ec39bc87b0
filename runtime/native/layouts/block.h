// What a block layout says about itself.
//
// A layout is a struct (see any file beside this one) with
//   BLOCK, BYTES  weights and bytes of a block
//   SUB           columns that share a scale: 16, 32 or the whole block
//   BITS          of a code: -128..127 with 8, unsigned with fewer
//   FORM          how a weight is made of its code
//   CENTER        of SYMMETRIC: the code of weight zero
//   scales()      writes the scale of each SUB columns of a block, and its
//   offset or zero codes()       the codes of columns 32 * index .. 32 * index
//   + 31 of a block
#pragma once

#include "../form.h"
#include "../int8_dot.h"
#include "../kernels.h"
#include "codes.h"

namespace KERNELS {

// A block of 32 weights that begins with its scale: weight = d * (q - CENTER).
struct Symmetric32 {
    static constexpr int BLOCK = 32, SUB = 32;
    static constexpr Form FORM = SYMMETRIC;

    static INLINE void scales(const uint8_t* bytes, float* scale, float*) {
        store(scale, repeat_half<8>(bytes));
    }
};

// A block of 32 weights that begins with its scale and minimum: weight = d * q + m.
struct Affine32 {
    static constexpr int BLOCK = 32, SUB = 32, CENTER = 0;
    static constexpr Form FORM = AFFINE;

    static INLINE void scales(const uint8_t* bytes, float* scale, float* offset) {
        store(scale, repeat_half<8>(bytes));
        store(offset, repeat_half<8>(bytes + 2));
    }
};

// Scales (and offsets or zeros) of a block; room for a vector also where there is one only.
template <class Type>
struct Scales {
    static constexpr int COUNT = Type::BLOCK / Type::SUB;
    alignas(32) float scale[COUNT < 8 ? 8 : COUNT];
    alignas(32) float offset[COUNT < 8 ? 8 : COUNT];
};

// Columns that share a scale, of at most 32 that are multiplied at once.
template <class Type>
constexpr int WIDTH_OF = Type::SUB == 16 ? 16 : 32;

// Signed codes are multiplied as 0..255 where the instruction set can.
template <class Type>
constexpr bool SHIFTED = Type::BITS == 8 && FULL_BYTES;
template <class Type>
constexpr bool SIGNED = Type::BITS == 8 && !FULL_BYTES;

template <class Type>
INLINE Bytes<32> codes_of(const uint8_t* block, int part) {
    const Bytes<32> codes = Type::codes(block, part);
    return SHIFTED<Type> ? codes ^ 128 : codes;
}

// The code of weight zero, but for the offsets of FORM ZERO_POINT and AFFINE.
template <class Type>
constexpr int CENTER_OF = (Type::FORM == SYMMETRIC ? Type::CENTER : 0) + (SHIFTED<Type> ? 128 : 0);

// Products of panels are added up in 16 bits where `width` of them fit: a sum has two halves, which
// take 2 of each 4 columns, and activations are at most 127. See gemm_short.h.
#if defined(HAS_SHORTS)
template <class Type>
constexpr int MIDDLE_OF = Type::FORM == SYMMETRIC ? Type::CENTER
                          : Type::BITS == 5       ? 16
                                                  : 0;
template <class Type>
constexpr int FARTHEST_OF = (1 << Type::BITS) - 1 - MIDDLE_OF<Type> > MIDDLE_OF<Type>
                                ? (1 << Type::BITS) - 1 - MIDDLE_OF<Type>
                                : MIDDLE_OF<Type>;
template <class Type>
constexpr bool SHORT_SUMS =
    Type::BITS < 8 && FARTHEST_OF<Type> * 127 * (WIDTH_OF<Type> / 2) < 1 << 15;
#else
template <class Type>
constexpr bool SHORT_SUMS = false;
#endif

// The code that a panel's products count from.
template <class Type>
constexpr int panel_center() {
#if defined(HAS_SHORTS)
    if (SHORT_SUMS<Type>) return MIDDLE_OF<Type>;
#endif
    return CENTER_OF<Type>;
}

// The offset o of weight = code * scale + o, whatever the form.
template <class Type>
INLINE float offset_of(const Scales<Type>& of, int sub) {
    if (Type::FORM == AFFINE) return of.offset[sub];
    if (Type::FORM == ZERO_POINT) return -of.offset[sub] * of.scale[sub];
    return (float)-Type::CENTER * of.scale[sub];
}

}  // namespace KERNELS
