// Q5_K: 256 weights in 8 sub-blocks of 32, weight = (d * scale) * q - (dmin * min).
//
//   bytes 0..15    scales  see k_scales.h
//   bytes 16..47   qh      fifth bit of the codes; weight 32 k + j is bit k of byte j
//   bytes 48..175  ql      byte 32 c + j: low nibble weight 64 c + j, high one weight 64 c + 32 + j
#include "k_scales.h"
#include "layout_of.h"

namespace KERNELS {

struct BlockQ5_K {
    uint8_t scales[16];
    uint8_t qh[32];
    uint8_t ql[128];
};
static_assert(sizeof(BlockQ5_K) == 176);

struct Q5_K : AffineSuper {
    static constexpr int BYTES = sizeof(BlockQ5_K), BITS = 5;

    static INLINE Bytes<32> codes(const uint8_t* bytes, int index) {
        const BlockQ5_K* block = (const BlockQ5_K*)bytes;
        const Bytes<32> both = load<32>(block->ql + index / 2 * 32);
        const Bytes<32> low = (index % 2 ? shift_right(both, 4) : both) & 15;
        const Bytes<32> qh = load<32>(block->qh);
        const Bytes<32> high = index < 4 ? shift_left(qh, 4 - index) : shift_right(qh, index - 4);
        return low | (high & 16);
    }
};

extern const Layout q5_k;
const Layout q5_k = layout_of<Q5_K>("Q5_K");

}  // namespace KERNELS
