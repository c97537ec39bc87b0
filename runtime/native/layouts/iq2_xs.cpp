// IQ2_XS: 256 weights in 16 sub-blocks of 16, weight = (d * (0.5 + scale) / 4) * +-point.
//
//   bytes 0..1    d       float16
//   bytes 2..65   q       uint16 of 8 weights each: bits 0..8 index, bits 9..15 signs (signs_of_7)
//   bytes 66..73  scales  low nibble of byte j: scale 2j, high nibble: scale 2j + 1
#include "layout_of.h"
#include "points.h"

namespace KERNELS {

struct IQ2_XS {
    static constexpr int BLOCK = 256, BYTES = 74, SUB = 16, CENTER = 0, BITS = 8;
    static constexpr Form FORM = SYMMETRIC;

    static INLINE void scales(const uint8_t* bytes, float* scale, float*) {
        const float d = load_half(bytes);
        for (int sub = 0; sub < 16; sub++) {
            const int stored = bytes[66 + sub / 2] >> (4 * (sub % 2)) & 15;
            scale[sub] = d * (0.5f + (float)stored) * 0.25f;
        }
    }

    static INLINE Bytes<32> codes(const uint8_t* bytes, int part) {
        int index[4];
        uint8_t signs[4];
        for (int i = 0; i < 4; i++) {
            const unsigned q = load_u16(bytes + 2 + 8 * part + 2 * i);
            index[i] = (int)(q & 511);
            signs[i] = signs_of_7(q >> 9);
        }
        return with_signs(points_at(iq2_xs_points, index), signs);
    }
};

extern const Layout iq2_xs;
const Layout iq2_xs = layout_of<IQ2_XS>("IQ2_XS");

}  // namespace KERNELS
