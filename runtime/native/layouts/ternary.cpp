// TQ1_0, TQ2_0, Q1_0 and Q2_0: one scale for a block, weight = d * (q - 1).
//
//   TQ1_0, 256 weights
//   bytes 0..31   q  digit k of byte j: weight 32k + j
//   bytes 32..47  q  digit k of byte j: weight 160 + 16k + j
//   bytes 48..51  q  digit k of byte j: weight 240 + 4k + j, four digits
//   bytes 52..53  d  float16
//   digit k of a byte is the whole part of 3 / 256 times the low 8 bits of byte * 3^k
//
//   TQ2_0, 256 weights
//   bytes 0..63   q  of each 128: bits 2f..2f+1 of byte j: weight 32f + j
//   bytes 64..65  d  float16
//
//   Q1_0, 128 weights                            Q2_0, 64 weights
//   bytes 0..1   d  float16                      bytes 0..1   d  float16
//   bytes 2..17  q  bit i of byte j:             bytes 2..17  q  bits 2f..2f+1 of byte j:
//                   weight 8j + i, is 2 or 0                     weight 4j + f
#include "layout_of.h"
#include "two_bits.h"

namespace KERNELS {

// One float16 for the whole block, at byte AT.
template <int AT>
struct OneScale {
    static constexpr int CENTER = 1, BITS = 2;
    static constexpr Form FORM = SYMMETRIC;

    static INLINE void scales(const uint8_t* bytes, float* scale, float*) {
        store(scale, repeat_half<8>(bytes + AT));
    }
};

// Digits first..first + count / width - 1 of `width` bytes.
static INLINE void write_digits(const uint8_t* bytes, int width, int first, int count,
                                uint8_t* out) {
    static constexpr uint8_t POWERS[5] = {1, 3, 9, 27, 81};
    for (int i = 0; i < count; i++) {
        const uint8_t left = (uint8_t)(bytes[i % width] * POWERS[first + i / width]);
        out[i] = (uint8_t)(left * 3 >> 8);
    }
}

struct TQ1_0 : OneScale<52> {
    static constexpr int BLOCK = 256, BYTES = 54, SUB = 256;

    static INLINE Bytes<32> codes(const uint8_t* bytes, int part) {
        uint8_t digits[32];
        if (part < 5) {
            write_digits(bytes, 32, part, 32, digits);
        } else if (part < 7) {
            write_digits(bytes + 32, 16, 2 * (part - 5), 32, digits);
        } else {
            write_digits(bytes + 32, 16, 4, 16, digits);
            write_digits(bytes + 48, 4, 0, 16, digits + 16);
        }
        return load<32>(digits);
    }
};

struct TQ2_0 : OneScale<64> {
    static constexpr int BLOCK = 256, BYTES = 66, SUB = 256;

    static INLINE Bytes<32> codes(const uint8_t* bytes, int part) {
        return shift_right(load<32>(bytes + 32 * (part / 4)), 2 * (part % 4)) & 3;
    }
};

struct Q1_0 : OneScale<0> {
    static constexpr int BLOCK = 128, BYTES = 18, SUB = 128;

    static INLINE Bytes<32> codes(const uint8_t* bytes, int part) {
        return spread_bits(bytes + 2 + 4 * part) & 2;
    }
};

struct Q2_0 : OneScale<0> {
    static constexpr int BLOCK = 64, BYTES = 18, SUB = 64;

    static INLINE Bytes<32> codes(const uint8_t* bytes, int part) {
        return four_a_byte(bytes + 2 + 8 * part);
    }
};

extern const Layout tq1_0, tq2_0, q1_0, q2_0;
const Layout tq1_0 = layout_of<TQ1_0>("TQ1_0"), tq2_0 = layout_of<TQ2_0>("TQ2_0");
const Layout q1_0 = layout_of<Q1_0>("Q1_0"), q2_0 = layout_of<Q2_0>("Q2_0");

}  // namespace KERNELS
