// IQ1_S: 256 weights in 8 sub-blocks of 32, weight = (d / 8 * (1 + 2 * scale)) * (8 points +- 1).
//
//   bytes 0..1    d     float16
//   bytes 2..33   q     low byte of the index of 8 weights each
//   bytes 34..49  high  uint16 of each 32, bits 3k..3k+2: bits 8..10 of index k, bits 12..14:
//   scale,
//                       bit 15: 1 is subtracted
#include "layout_of.h"
#include "points.h"

namespace KERNELS {

struct IQ1_S {
    static constexpr int BLOCK = 256, BYTES = 50, SUB = 32, CENTER = 0, BITS = 8;
    static constexpr Form FORM = SYMMETRIC;

    static INLINE int word(const uint8_t* bytes, int sub) { return load_u16(bytes + 34 + 2 * sub); }

    static INLINE void scales(const uint8_t* bytes, float* scale, float*) {
        const float d = load_half(bytes) / 8;
        for (int sub = 0; sub < 8; sub++) {
            scale[sub] = d * (float)(2 * (word(bytes, sub) >> 12 & 7) + 1);
        }
    }

    static INLINE Bytes<32> codes(const uint8_t* bytes, int sub) {
        const int high = word(bytes, sub);
        int index[4];
        for (int i = 0; i < 4; i++) {
            index[i] = bytes[2 + 4 * sub + i] | (high >> (3 * i) & 7) << 8;
        }
        return points_at(iq1_points, index) + repeat<32>((uint8_t)(high >> 15 ? -1 : 1));
    }
};

extern const Layout iq1_s;
const Layout iq1_s = layout_of<IQ1_S>("IQ1_S");

}  // namespace KERNELS
