// IQ1_M: 256 weights in 16 sub-blocks of 16, weight = (d / 8 * (1 + 2 * scale)) * (8 points +- 1).
//
//   bytes 0..31   q       low byte of the index of 8 weights each
//   bytes 32..47  high    nibbles, the low one first: bits 0..2 are bits 8..10 of the index of 8
//                         weights, bit 3: 1 is subtracted from them
//   bytes 48..55  scales  uint16 of each 64, bits 3k..3k+2: scale k; bits 12..15 of the four words,
//                         lowest first, are the float16 d
#include "layout_of.h"
#include "points.h"

namespace KERNELS {

struct IQ1_M {
    static constexpr int BLOCK = 256, BYTES = 56, SUB = 16, CENTER = 0, BITS = 8;
    static constexpr Form FORM = SYMMETRIC;

    static INLINE void scales(const uint8_t* bytes, float* scale, float*) {
        unsigned half = 0;
        for (int i = 0; i < 4; i++) half |= (bytes[48 + 2 * i + 1] >> 4) << (4 * i);
        const uint8_t stored[2] = {(uint8_t)half, (uint8_t)(half >> 8)};
        const float d = load_half(stored) / 8;
        for (int sub = 0; sub < 16; sub++) {
            const int word = load_u16(bytes + 48 + 2 * (sub / 4));
            scale[sub] = d * (float)(2 * (word >> (3 * (sub % 4)) & 7) + 1);
        }
    }

    static INLINE Bytes<32> codes(const uint8_t* bytes, int part) {
        int index[4];
        uint8_t shifts[32];
        for (int i = 0; i < 4; i++) {
            const int high = bytes[32 + 2 * part + i / 2] >> (4 * (i % 2)) & 15;
            index[i] = bytes[4 * part + i] | (high & 7) << 8;
            memset(shifts + 8 * i, high & 8 ? -1 : 1, 8);
        }
        return points_at(iq1_points, index) + load<32>(shifts);
    }
};

extern const Layout iq1_m;
const Layout iq1_m = layout_of<IQ1_M>("IQ1_M");

}  // namespace KERNELS
