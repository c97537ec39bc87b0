// IQ3_S: 256 weights in 8 sub-blocks of 32, weight = (d * (1 + 2 * scale)) * +-point.
//
//   bytes 0..1      d       float16
//   bytes 2..65     q       low byte of the index of 4 weights each
//   bytes 66..73    high    bit i: bit 8 of index i
//   bytes 74..105   signs   bit i: weight i is negative
//   bytes 106..109  scales  low nibble of byte j: scale 2j, high nibble: scale 2j + 1
#include "layout_of.h"
#include "points.h"

namespace KERNELS {

struct IQ3_S {
    static constexpr int BLOCK = 256, BYTES = 110, SUB = 32, CENTER = 0, BITS = 8;
    static constexpr Form FORM = SYMMETRIC;

    static INLINE void scales(const uint8_t* bytes, float* scale, float*) {
        const float d = load_half(bytes);
        for (int sub = 0; sub < 8; sub++) {
            const int stored = bytes[106 + sub / 2] >> (4 * (sub % 2)) & 15;
            scale[sub] = d * (float)(1 + 2 * stored);
        }
    }

    static INLINE Bytes<32> codes(const uint8_t* bytes, int sub) {
        int index[8];
        for (int i = 0; i < 8; i++) {
            index[i] = bytes[2 + 8 * sub + i] | (bytes[66 + sub] >> i & 1) << 8;
        }
        return with_signs(points_at(iq3_s_points, index), bytes + 74 + 4 * sub);
    }
};

extern const Layout iq3_s;
const Layout iq3_s = layout_of<IQ3_S>("IQ3_S");

}  // namespace KERNELS
