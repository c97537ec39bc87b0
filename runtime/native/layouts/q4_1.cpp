// Q4_1: 32 weights, weight = d * q + m.
//
//   bytes 0..1   d  float16
//   bytes 2..3   m  float16
//   bytes 4..19  q  low nibbles: weights 0..15, high nibbles: weights 16..31
#include "layout_of.h"

namespace KERNELS {

struct BlockQ4_1 {
    uint8_t d[2];
    uint8_t m[2];
    uint8_t q[16];
};
static_assert(sizeof(BlockQ4_1) == 20);

struct Q4_1 : Affine32 {
    static constexpr int BYTES = sizeof(BlockQ4_1), BITS = 4;

    static INLINE Bytes<32> codes(const uint8_t* bytes, int) {
        const BlockQ4_1* block = (const BlockQ4_1*)bytes;
        return split_nibbles(block->q);
    }
};

extern const Layout q4_1;
const Layout q4_1 = layout_of<Q4_1>("Q4_1");

}  // namespace KERNELS
