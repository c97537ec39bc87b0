// Q4_0: 32 weights, weight = d * (q - 8).
//
//   bytes 0..1   d  float16
//   bytes 2..17  q  low nibbles: weights 0..15, high nibbles: weights 16..31
#include "product.h"

namespace KERNELS {

struct BlockQ4_0 {
    uint8_t d[2];
    uint8_t q[16];
};
static_assert(sizeof(BlockQ4_0) == 18);

struct Q4_0 {
    static constexpr int BLOCK = 32, BYTES = sizeof(BlockQ4_0), SUB = 32, CENTER = 8;
    static constexpr int BITS = 4;
    static constexpr Form FORM = CENTERED;

    static INLINE void scales(const uint8_t* bytes, float* scale, float*) {
        const BlockQ4_0* block = (const BlockQ4_0*)bytes;
        store8(scale, half8(block->d));
    }

    static INLINE Bytes32 codes(const uint8_t* bytes, int) {
        const BlockQ4_0* block = (const BlockQ4_0*)bytes;
        return split_nibbles(block->q);
    }
};

extern const Layout q4_0;
const Layout q4_0 = layout_of<Q4_0>("Q4_0");

}  // namespace KERNELS
