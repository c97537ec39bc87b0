// Q5_1: 32 weights, weight = d * q + m.
//
//   bytes 0..1   d   float16
//   bytes 2..3   m   float16
//   bytes 4..7   qh  bit i: fifth bit of weight i, lowest bit first
//   bytes 8..23  ql  low nibbles: weights 0..15, high nibbles: weights 16..31
#include "layout_of.h"

namespace KERNELS {

struct BlockQ5_1 {
    uint8_t d[2];
    uint8_t m[2];
    uint8_t qh[4];
    uint8_t ql[16];
};
static_assert(sizeof(BlockQ5_1) == 24);

struct Q5_1 : Affine32 {
    static constexpr int BYTES = sizeof(BlockQ5_1), BITS = 5;

    static INLINE Bytes<32> codes(const uint8_t* bytes, int) {
        const BlockQ5_1* block = (const BlockQ5_1*)bytes;
        return split_nibbles(block->ql) | (spread_bits(block->qh) & 16);
    }
};

extern const Layout q5_1;
const Layout q5_1 = layout_of<Q5_1>("Q5_1");

}  // namespace KERNELS
