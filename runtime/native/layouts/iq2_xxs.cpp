// IQ2_XXS: 256 weights in 8 sub-blocks of 32, weight = (d * (0.5 + scale) / 4) * +-point.
//
//   bytes 0..1    d  float16
//   bytes 2..65   of each 32: bytes 0..3 index of 8 weights each; then a uint32, bits 7k..7k+6:
//                 signs of 8 weights (signs_of_7), bits 28..31: scale
#include "layout_of.h"
#include "points.h"

namespace KERNELS {

struct IQ2_XXS {
    static constexpr int BLOCK = 256, BYTES = 66, SUB = 32, CENTER = 0, BITS = 8;
    static constexpr Form FORM = SYMMETRIC;

    static INLINE uint32_t word(const uint8_t* bytes, int sub) {
        return load_u32(bytes + 2 + 8 * sub + 4);
    }

    static INLINE void scales(const uint8_t* bytes, float* scale, float*) {
        const float d = load_half(bytes);
        for (int sub = 0; sub < 8; sub++) {
            scale[sub] = d * (0.5f + (float)(word(bytes, sub) >> 28)) * 0.25f;
        }
    }

    static INLINE Bytes<32> codes(const uint8_t* bytes, int sub) {
        const uint8_t* q = bytes + 2 + 8 * sub;
        const int index[4] = {q[0], q[1], q[2], q[3]};
        return with_signs_of_7(points_at(iq2_xxs_points, index), word(bytes, sub));
    }
};

extern const Layout iq2_xxs;
const Layout iq2_xxs = layout_of<IQ2_XXS>("IQ2_XXS");

}  // namespace KERNELS
