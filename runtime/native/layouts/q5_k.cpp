// Q5_K: 256 weights in 8 sub-blocks of 32, weight = (d * scale) * q - (dmin * min).
//
//   bytes 0..1     d       float16
//   bytes 2..3     dmin    float16
//   bytes 4..15    scales  see k_scales.h
//   bytes 16..47   qh      fifth bit of the codes; weight 32 k + j is bit k of byte j
//   bytes 48..175  ql      byte 32 c + j: low nibble weight 64 c + j, high one weight 64 c + 32 + j
#include "k_scales.h"
#include "product.h"

namespace KERNELS {

struct BlockQ5_K {
    uint8_t d[2];
    uint8_t dmin[2];
    uint8_t scales[12];
    uint8_t qh[32];
    uint8_t ql[128];
};
static_assert(sizeof(BlockQ5_K) == 176);

struct Q5_K {
    static constexpr int BLOCK = 256, BYTES = sizeof(BlockQ5_K), SUB = 32, CENTER = 0;
    static constexpr int BITS = 5;
    static constexpr Form FORM = AFFINE;

    static INLINE void scales(const uint8_t* bytes, float* scale, float* offset) {
        const BlockQ5_K* block = (const BlockQ5_K*)bytes;
        float min[8];
        load_k_scales(block->scales, scale, min);
        store8(scale, half8(block->d) * load8(scale));
        store8(offset, -(half8(block->dmin) * load8(min)));
    }

    static INLINE Bytes32 codes(const uint8_t* bytes, int index) {
        const BlockQ5_K* block = (const BlockQ5_K*)bytes;
        const Bytes32 both = load32(block->ql + index / 2 * 32);
        const Bytes32 low = (index % 2 ? shift_right(both, 4) : both) & 15;
        const Bytes32 qh = load32(block->qh);
        const Bytes32 high = index < 4 ? shift_left(qh, 4 - index) : shift_right(qh, index - 4);
        return low | (high & 16);
    }
};

extern const Layout q5_k;
const Layout q5_k = layout_of<Q5_K>("Q5_K");

}  // namespace KERNELS
