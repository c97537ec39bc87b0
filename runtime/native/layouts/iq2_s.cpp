// IQ2_S: 256 weights in 16 sub-blocks of 16, weight = (d * (0.5 + scale) / 4) * +-point.
//
//   bytes 0..1    d       float16
//   bytes 2..33   q       low byte of the index of 8 weights each
//   bytes 34..65  signs   bit i: weight i is negative
//   bytes 66..73  high    bits 2f..2f+1 of byte j: bits 8..9 of index 4j + f
//   bytes 74..81  scales  low nibble of byte j: scale 2j, high nibble: scale 2j + 1
#include "layout_of.h"
#include "points.h"

namespace KERNELS {

struct IQ2_S {
    static constexpr int BLOCK = 256, BYTES = 82, SUB = 16, CENTER = 0, BITS = 8;
    static constexpr Form FORM = SYMMETRIC;

    static INLINE void scales(const uint8_t* bytes, float* scale, float*) {
        const float d = load_half(bytes);
        for (int sub = 0; sub < 16; sub++) {
            const int stored = bytes[74 + sub / 2] >> (4 * (sub % 2)) & 15;
            scale[sub] = d * (0.5f + (float)stored) * 0.25f;
        }
    }

    static INLINE Bytes<32> codes(const uint8_t* bytes, int part) {
        int index[4];
        for (int i = 0; i < 4; i++) {
            index[i] = bytes[2 + 4 * part + i] | (bytes[66 + part] >> (2 * i) & 3) << 8;
        }
        return with_signs(points_at(iq2_s_points, index), bytes + 34 + 4 * part);
    }
};

extern const Layout iq2_s;
const Layout iq2_s = layout_of<IQ2_S>("IQ2_S");

}  // namespace KERNELS
