// IQ3_XXS: 256 weights in 8 sub-blocks of 32, weight = (d * (0.5 + scale) / 2) * +-point.
//
//   bytes 0..1    d  float16
//   bytes 2..65   q  index of 4 weights each
//   bytes 66..97  a uint32 of each 32, bits 7k..7k+6: signs of 8 weights (signs_of_7), bits 28..31:
//                 scale
#include "layout_of.h"
#include "points.h"

namespace KERNELS {

struct IQ3_XXS {
    static constexpr int BLOCK = 256, BYTES = 98, SUB = 32, CENTER = 0, BITS = 8;
    static constexpr Form FORM = SYMMETRIC;

    static INLINE uint32_t word(const uint8_t* bytes, int sub) {
        return load_u32(bytes + 66 + 4 * sub);
    }

    static INLINE void scales(const uint8_t* bytes, float* scale, float*) {
        const float d = load_half(bytes);
        for (int sub = 0; sub < 8; sub++) {
            scale[sub] = d * (0.5f + (float)(word(bytes, sub) >> 28)) * 0.5f;
        }
    }

    static INLINE Bytes<32> codes(const uint8_t* bytes, int sub) {
        int index[8];
        for (int i = 0; i < 8; i++) index[i] = bytes[2 + 8 * sub + i];
        return with_signs_of_7(points_at(iq3_xxs_points, index), word(bytes, sub));
    }
};

extern const Layout iq3_xxs;
const Layout iq3_xxs = layout_of<IQ3_XXS>("IQ3_XXS");

}  // namespace KERNELS
