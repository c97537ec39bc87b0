// Q4_K: 256 weights in 8 sub-blocks of 32, weight = (d * scale) * q - (dmin * min).
//
//   bytes 0..1     d       float16
//   bytes 2..3     dmin    float16
//   bytes 4..15    scales  see k_scales.h
//   bytes 16..143  q       byte 32 c + j: low nibble weight 64 c + j, high one weight 64 c + 32 + j
#include "k_scales.h"
#include "product.h"

namespace KERNELS {

struct BlockQ4_K {
    uint8_t d[2];
    uint8_t dmin[2];
    uint8_t scales[12];
    uint8_t q[128];
};
static_assert(sizeof(BlockQ4_K) == 144);

struct Q4_K {
    static constexpr int BLOCK = 256, BYTES = sizeof(BlockQ4_K), SUB = 32, CENTER = 0;
    static constexpr int BITS = 4;
    static constexpr Form FORM = AFFINE;

    static INLINE void scales(const uint8_t* bytes, float* scale, float* offset) {
        const BlockQ4_K* block = (const BlockQ4_K*)bytes;
        float min[8];
        load_k_scales(block->scales, scale, min);
        store8(scale, half8(block->d) * load8(scale));
        store8(offset, -(half8(block->dmin) * load8(min)));
    }

    static INLINE Bytes32 codes(const uint8_t* bytes, int index) {
        const BlockQ4_K* block = (const BlockQ4_K*)bytes;
        const Bytes32 both = load32(block->q + index / 2 * 32);
        return (index % 2 ? shift_right(both, 4) : both) & 15;
    }
};

extern const Layout q4_k;
const Layout q4_k = layout_of<Q4_K>("Q4_K");

}  // namespace KERNELS
