// Q5_0: 32 weights, weight = d * (q - 16).
//
//   bytes 0..1   d   float16
//   bytes 2..5   qh  bit i: fifth bit of weight i, lowest bit first
//   bytes 6..21  ql  low nibbles: weights 0..15, high nibbles: weights 16..31
#include "layout_of.h"

namespace KERNELS {

struct BlockQ5_0 {
    uint8_t d[2];
    uint8_t qh[4];
    uint8_t ql[16];
};
static_assert(sizeof(BlockQ5_0) == 22);

struct Q5_0 : Symmetric32 {
    static constexpr int BYTES = sizeof(BlockQ5_0), BITS = 5, CENTER = 16;

    static INLINE Bytes<32> codes(const uint8_t* bytes, int) {
        const BlockQ5_0* block = (const BlockQ5_0*)bytes;
        return split_nibbles(block->ql) | (spread_bits(block->qh) & 16);
    }
};

extern const Layout q5_0;
const Layout q5_0 = layout_of<Q5_0>("Q5_0");

}  // namespace KERNELS
