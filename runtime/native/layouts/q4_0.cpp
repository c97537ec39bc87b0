// Q4_0: 32 weights, weight = d * (q - 8).
//
//   bytes 0..1   d  float16
//   bytes 2..17  q  low nibbles: weights 0..15, high nibbles: weights 16..31
#include "layout_of.h"

namespace KERNELS {

struct BlockQ4_0 {
    uint8_t d[2];
    uint8_t q[16];
};
static_assert(sizeof(BlockQ4_0) == 18);

struct Q4_0 : Symmetric32 {
    static constexpr int BYTES = sizeof(BlockQ4_0), BITS = 4, CENTER = 8;

    static INLINE Bytes<32> codes(const uint8_t* bytes, int) {
        const BlockQ4_0* block = (const BlockQ4_0*)bytes;
        return split_nibbles(block->q);
    }
};

extern const Layout q4_0;
const Layout q4_0 = layout_of<Q4_0>("Q4_0");

}  // namespace KERNELS
